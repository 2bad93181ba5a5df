"""The endpoint: connects the parts of the devserver, opens and closes the listening socket. No rule is in this file."""

import ipaddress
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Any

from aiohttp import web

from . import _page as page
from . import _settings as settings
from ._access import AccessControl, harden, is_loopback_name
from ._arrivals import Arrivals, Event, ReceivedBatch
from ._faults import Chaos, Faults
from ._inspect import Inspection
from ._judging import Judged
from ._oauth import TokenServer
from ._stream import Stream
from ._tracking import Answered, Tracking

if TYPE_CHECKING:
    from segment_async.plans import Plan


class Endpoint:
    """A running endpoint at `url`; from `serve`."""

    def __init__(self, url: str, arrivals: Arrivals) -> None:
        self.url: str = url
        self._arrivals = arrivals

    @property
    def events(self) -> list[Event]:
        """The stored events, oldest first, each with its message, its verdicts and its request."""
        return list(self._arrivals.held)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Copies of the stored messages, oldest first."""
        return [event.message for event in self.events]

    def summary(self) -> dict[str, Any]:
        """The counts of all events since the last clearing, including those that are not stored any more."""
        return self._arrivals.summary()

    def clear(self) -> None:
        """Delete all events, counts and ids."""
        self._arrivals.clear()

    async def wait(self, count: int, *, timeout: float = 10.0) -> bool:
        """Whether `count` events have arrived since the last clearing; waits up to `timeout` seconds."""
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
    load: Iterable[tuple[ReceivedBatch, list[Judged]]] = (),
    random: Random | None = None,
    plan: "Plan | None" = None,
) -> AsyncGenerator[Endpoint, None]:
    """Listen within the block; port 0 picks a free one.

    The last `keep` events are stored, and all are counted. `rate` is the limit of requests per second, `None` for none;
    `chaos` has the format of `--chaos`, and its faults are drawn from `random`, `None` for different ones each time.
    `report` is called once for every request to `/v1/*`. `load` are requests to begin with, from `loaded`. A `host`
    beyond loopback requires a `token`, which SDKs use as the write key and readers as a password; with `None`, any write
    key is accepted. With a `plan`, messages are judged against it, too.

    Raises:
        OSError: the address cannot be opened.
        ValueError: `chaos` is malformed, an origin in `allow_origins` is none, `plan` is not a `Plan`, or the token is missing.
    """
    if token is None and not is_loopback_name(host):
        raise ValueError(f"host {host} can be reached from other machines, which requires a token")
    arrivals = Arrivals(keep)
    for batch, judged in load:
        arrivals.add(batch._replace(number=arrivals.next_batch()), judged)
    faults = Faults(rate, Chaos.parse(chaos), random or Random())  # noqa: S311  # not used for secrets
    stream = Stream(arrivals, faults, {"keep": keep, "token": token is not None})
    app = web.Application(middlewares=[web.middleware(AccessControl(allow_origins, token))])
    app.add_routes(Tracking(arrivals, faults, report, token, plan).routes() + Inspection(arrivals, faults).routes())
    app.add_routes([TokenServer(faults).route(), settings.route(faults), *stream.routes(), page.route()])
    app.on_response_prepare.append(harden)
    app.on_shutdown.append(stream.close)
    # aiohttp would decompress bodies without a limit.
    runner = web.AppRunner(app, access_log=None, auto_decompress=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield Endpoint(_url(*runner.addresses[0][:2]), arrivals)
    finally:
        await runner.cleanup()


def _url(host: str, port: int) -> str:
    address = ipaddress.ip_address(host)
    if address.is_unspecified:  # listens on every address: use one that a client can connect to
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"
