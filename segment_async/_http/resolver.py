"""Resolves host names in a daemon thread for each lookup.

The loop's own resolver uses its executor, which delays the end of `asyncio.run` while a lookup hangs and cannot be used
once the interpreter is about to exit. A daemon thread has neither problem. If no thread can be started, the resolver
uses the addresses that it found earlier, or looks the name up in a child process.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from typing import Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult

from segment_async._lifecycle.waiting import settle_from_thread

# Seconds between two checks whether the child has ended; asyncio's notification needs threads, too.
_POLL_SECONDS: Final = 0.01
_CHILD: Final = (
    "import json,socket,sys;print(json.dumps(socket.getaddrinfo(sys.argv[1],int(sys.argv[2]),type=socket.SOCK_STREAM)))"
)

Addresses = list[Any]
_known: dict[tuple[str, int], Addresses] = {}


class Resolver(AbstractResolver):
    """Returns the addresses of the system's `getaddrinfo`, without the loop's executor."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
        try:
            threading.Thread(target=_look_up, args=(found, host, port), daemon=True).start()
        except RuntimeError:
            return _results(host, port, family, _known.get((host, port)) or await _look_up_in_child(host, port))
        return _results(host, port, family, await found)

    async def close(self) -> None:
        """There is nothing to close."""


def _look_up(found: asyncio.Future[Addresses], host: str, port: int) -> None:
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        settle_from_thread(found, error=OSError(getattr(error, "errno", None), "name not resolved"))
        return
    _known[host, port] = addresses
    settle_from_thread(found, addresses)


async def _look_up_in_child(host: str, port: int) -> Addresses:
    if not _can_run_python():
        # The executable is the application itself, which must not be started again.
        try:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise OSError(None, "name not resolved") from None
    command = [sys.executable, "-I", "-S", "-c", _CHILD, host, str(port)]
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # noqa: ASYNC220  # asyncio's subprocesses need threads
        with child:
            assert child.stdout is not None
            try:
                while child.poll() is None:  # noqa: ASYNC110  # there is no event to wait for, see above
                    await asyncio.sleep(_POLL_SECONDS)
                return list(json.load(child.stdout))
            finally:
                child.kill()
    except (OSError, ValueError):
        raise OSError(None, "name not resolved") from None


def _can_run_python() -> bool:
    """Whether `sys.executable` is a Python: it is the application in a frozen program, and a server under uWSGI."""
    name = os.path.basename(sys.executable or "").lower()
    return not getattr(sys, "frozen", False) and name.startswith(("python", "pypy"))


def _results(host: str, port: int, family: int, addresses: Addresses) -> list[ResolveResult]:
    return [
        ResolveResult(hostname=host, host=address[0], port=port, family=kind, proto=proto, flags=socket.AI_NUMERICHOST)
        for kind, _, proto, _, address in addresses
        if family in (socket.AF_UNSPEC, kind) and kind in (socket.AF_INET, socket.AF_INET6)
    ]
