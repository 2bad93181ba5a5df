"""Names into addresses, in a thread of their own that nobody waits for.

The loop's own resolver runs in its executor, which holds up the end of `asyncio.run` while a name hangs, and which
is refused once the interpreter is about to exit. A daemon thread does neither; where even threads are refused, the
addresses found earlier serve, else a child process asks, whom nobody waits for either.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult

# Seconds between two looks at whether the child has ended: what would tell of it needs threads too.
_LOOK_SECONDS: Final = 0.01
_NOWHERE: Final = subprocess.DEVNULL
_CHILD: Final = (
    "import json,socket,sys;print(json.dumps(socket.getaddrinfo(sys.argv[1],int(sys.argv[2]),type=socket.SOCK_STREAM)))"
)

Addresses = list[Any]
_known: dict[tuple[str, int], Addresses] = {}


class Resolver(AbstractResolver):
    """Answers as the system's `getaddrinfo` does, never from the loop's executor."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Addresses] = loop.create_future()
        try:
            threading.Thread(target=_ask, args=(loop, answer, host, port), daemon=True).start()
        except RuntimeError:
            return _results(host, port, family, _known.get((host, port)) or await _ask_in_a_child(host, port))
        return _results(host, port, family, await answer)

    async def close(self) -> None:
        """Nothing is held."""


def _ask(loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Addresses], host: str, port: int) -> None:
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        _tell(loop, answer, answer.set_exception, OSError(getattr(error, "errno", None), "name not resolved"))
        return
    _known[host, port] = addresses
    _tell(loop, answer, answer.set_result, addresses)


def _tell(
    loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Addresses], setter: Callable[[Any], None], value: Any
) -> None:
    def settle() -> None:
        if not answer.done():
            setter(value)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        # The loop ended while the name was being asked for.
        pass


async def _ask_in_a_child(host: str, port: int) -> Addresses:
    command = [sys.executable, "-I", "-S", "-c", _CHILD, host, str(port)]
    try:
        child = subprocess.Popen(command, stdin=_NOWHERE, stdout=subprocess.PIPE, stderr=_NOWHERE)  # noqa: ASYNC220  # what asyncio has for it needs threads
        with child:
            assert child.stdout is not None
            try:
                while child.poll() is None:  # noqa: ASYNC110  # no event comes, see above
                    await asyncio.sleep(_LOOK_SECONDS)
                return list(json.load(child.stdout))
            finally:
                child.kill()
    except (OSError, ValueError):
        raise OSError(None, "name not resolved") from None


def _results(host: str, port: int, family: int, addresses: Addresses) -> list[ResolveResult]:
    return [
        ResolveResult(hostname=host, host=address[0], port=port, family=kind, proto=proto, flags=socket.AI_NUMERICHOST)
        for kind, _, proto, _, address in addresses
        if family in (socket.AF_UNSPEC, kind) and kind in (socket.AF_INET, socket.AF_INET6)
    ]
