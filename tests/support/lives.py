"""What tests of a client's life share: a transport that keeps what came, and a loop in another thread."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

from segment_async import Client, Response, TransportError, messages
from tests.support.simulated_segment import Arrival

Answer = Callable[[Arrival], Awaitable[Response]]
OK = Response(200, {}, b'{"success": true}')
PATIENCE = 20.0


class Net:
    """A transport that keeps what came and answers as it is told; of no loop in particular."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer
        self.arrivals: list[Arrival] = []
        self.closed = 0

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        arrival = Arrival.read(body, headers)
        self.arrivals.append(arrival)
        return OK if self.answer is None else await self.answer(arrival)

    async def aclose(self) -> None:
        self.closed += 1

    @property
    def ids(self) -> list[str]:
        return [message_id for arrival in self.arrivals for message_id in arrival.ids]


async def silence(arrival: Arrival) -> Response:
    await asyncio.Event().wait()
    raise AssertionError


async def refuse(arrival: Arrival) -> Response:
    raise TransportError("the connection was refused", maybe_sent=False)


async def refused(arrival: Arrival) -> Response:
    return Response(400)


async def slowly(arrival: Arrival) -> Response:
    await asyncio.sleep(1)
    return OK


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def enqueue(client: Client, name: str) -> None:
    client.enqueue_nowait(messages.track("u", "E", message_id=name))


class OtherLoop:
    """A loop that runs in a thread of its own until the block ends."""

    def __enter__(self) -> Self:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def __call__(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
