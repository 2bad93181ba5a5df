"""Marks of tests that need what is not everywhere: a browser, other SDKs."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: drives the page in a real Chromium; skipped where there is none")
    config.addinivalue_line("markers", "peers: runs other SDKs against the endpoint; skipped where they are missing")
