"""Runs test files of the official Python SDK on `segment_async.compat`; prints what became of each test, as JSON.

The first argument is a JSON list of the tests to leave out, the others are the files. To them `segment.analytics`, and
those of its submodules that users import, are the compat module.
"""

import importlib.util
import json
import logging
import sys
import types
import unittest
import unittest.mock
from collections.abc import Iterator
from pathlib import Path

import segment_async.compat as analytics


def pretend() -> None:
    client = types.ModuleType("segment.analytics.client")
    client.Client = analytics.Client  # type: ignore[attr-defined]
    version = types.ModuleType("segment.analytics.version")
    version.VERSION = "of the official SDK"  # type: ignore[attr-defined]
    package = types.ModuleType("segment")
    package.analytics = analytics  # type: ignore[attr-defined]
    # So that `segment.analytics.client` is found, although the compat module is no package.
    sys.modules |= {
        "segment": package,
        "segment.analytics": analytics,
        "segment.analytics.client": client,
        "segment.analytics.version": version,
        "mock": unittest.mock,
    }


def tests_in(path: Path) -> unittest.TestSuite:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, unittest.TestCase) and "fail" in vars(value):
            value.fail = fail  # type: ignore[method-assign]
    return unittest.defaultTestLoader.loadTestsFromModule(module)


def fail(self: unittest.TestCase, error: object, batch: object = None) -> None:
    """In place of one that serves as `on_error`, and by its name disarms the assertions of text and of dicts."""
    self.failed = True  # type: ignore[attr-defined]
    if batch is None:
        raise self.failureException(error)


def each(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from each(test)
        else:
            yield test


def outcome_of(test: unittest.TestCase) -> str:
    result = unittest.TestResult()
    test.run(result)
    return "".join(text for _, text in result.failures + result.errors).strip()


if __name__ == "__main__":
    logging.disable()
    pretend()
    left_out = json.loads(sys.argv[1])
    tests = [test for name in sys.argv[2:] for test in each(tests_in(Path(name)))]
    print(json.dumps({test.id(): None if test.id() in left_out else outcome_of(test) for test in tests}))
