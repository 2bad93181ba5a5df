"""The endpoint as a whole: wires its parts, opens and closes the listening socket.

The wiring diagram of the devserver; no rule lives here.
"""

import ipaddress
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from . import _oauth as oauth
from . import _page as page
from ._arrivals import Arrivals, Event
from ._faults import Chaos, Faults
from ._guard import Guard, harden, is_loopback_name
from ._inspect import Inspection
from ._stream import Stream
from ._tracking import Answered, Tracking


class Endpoint:
    """A Segment on this machine that is listening at `url`; from `serve`."""

    def __init__(self, url: str, arrivals: Arrivals) -> None:
        self.url = url
        self._arrivals = arrivals

    @property
    def events(self) -> list[Event]:
        """The events held, oldest first; of each the message, its verdicts, and the request that brought it."""
        return list(self._arrivals.held)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages held, oldest first, as plain dicts of their own."""
        return [event.message for event in self.events]

    def summary(self) -> dict[str, Any]:
        """The counts of all events since the last clearing, those too old to be held included."""
        return self._arrivals.summary()

    def clear(self) -> None:
        """Forget all events, counts and ids."""
        self._arrivals.clear()

    async def wait(self, count: int, *, timeout: float = 10.0) -> bool:
        """Whether `count` events have come since the last clearing, waiting up to `timeout` seconds for them."""
        return await self._arrivals.wait(count, timeout)


@asynccontextmanager
async def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    keep: int = 5_000,
    rate: int | None = None,
    chaos: str = "",
    allow_origins: tuple[str, ...] = (),
    token: str | None = None,
    report: Callable[[Answered], None] = lambda answered: None,
    chance: random.Random | None = None,
) -> AsyncIterator[Endpoint]:
    """Listen within the block; port 0 takes a free one.

    The last `keep` events are held, all are counted. `rate` is requests a second, `chaos` as `--chaos` takes it, drawn
    from `chance`. `report` is told of every request to `/v1/*` once it is answered. A `host` beyond loopback needs a
    `token`: the write key of whoever sends, the password of whoever looks.

    Raises:
        OSError: the address cannot be had.
        ValueError: the chaos is of no known form, or the token is missing.
    """
    if token is None and not is_loopback_name(host):
        raise ValueError(f"{host} can be reached from other machines, so a token is needed")
    arrivals = Arrivals(keep)
    faults = Faults(rate, Chaos.parse(chaos), chance or random.Random())  # noqa: S311 - for chance, not for secrets
    stream = Stream(arrivals, faults, {"keep": keep, "token": token is not None})
    app = web.Application(middlewares=[web.middleware(Guard(allow_origins, token))])
    app.add_routes(Tracking(arrivals, faults, report, token).routes() + Inspection(arrivals, faults).routes())
    app.add_routes([web.post("/token", oauth.token), *stream.routes(), page.route()])
    app.on_response_prepare.append(harden)
    app.on_shutdown.append(stream.close)
    # Compressed bodies come as they are: aiohttp would decompress them without a bound.
    runner = web.AppRunner(app, access_log=None, auto_decompress=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield Endpoint(_url(*runner.addresses[0][:2]), arrivals)
    finally:
        await runner.cleanup()


def _url(host: str, port: int) -> str:
    address = ipaddress.ip_address(host)
    if address.is_unspecified:  # every address of this machine: this one can be connected to
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"
