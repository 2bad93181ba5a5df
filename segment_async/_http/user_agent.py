"""The `User-Agent` of every request: this library, Python, and the HTTP library of the transport."""

from __future__ import annotations

import sys
from typing import Final

from segment_async._version import __version__

USER_AGENT: Final = f"segment-async/{__version__} Python/{'.'.join(map(str, sys.version_info[:3]))}"
"""What a client sends through any transport. `HTTPTransport` adds the version of aiohttp."""


def extended(user_agent: str, product: str) -> str:
    """The header's value with one more product at its end."""
    return f"{user_agent} {product}"
