"""The endpoint as a whole: wires its parts, opens and closes the listening socket.

The wiring diagram of the devserver; no rule lives here.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from ._arrivals import Arrivals, Event
from ._guard import Guard
from ._inspect import Inspection
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
    report: Callable[[Answered], None] = lambda answered: None,
) -> AsyncIterator[Endpoint]:
    """Listen within the block; port 0 takes a free one.

    The last `keep` events are held, all are counted. `report` is told of every request to `/v1/*` once it is answered.

    Raises:
        OSError: the address cannot be had.
    """
    arrivals = Arrivals(keep)
    app = web.Application(middlewares=[web.middleware(Guard())])
    app.add_routes(Tracking(arrivals, report).routes() + Inspection(arrivals).routes())
    runner = web.AppRunner(app, access_log=None, auto_decompress=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield Endpoint(f"http://{_authority(*runner.addresses[0][:2])}", arrivals)
    finally:
        await runner.cleanup()


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
