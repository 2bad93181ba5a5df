"""How a request says who sends it.

This file knows no batches: it gives the value of the `Authorization` header, and a fresh one on demand.
"""

from __future__ import annotations

import base64


class Basic:
    """The write key as the user name, no password
    (https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/#writekey-authentication)."""

    has_tokens = False

    def __init__(self, write_key: str) -> None:
        self._header = "Basic " + base64.b64encode(f"{write_key}:".encode()).decode()

    def __repr__(self) -> str:
        return "<Basic>"

    async def header(self) -> str:
        return self._header

    def renew(self) -> None:
        """There is nothing to renew."""
