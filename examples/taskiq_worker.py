"""taskiq: the task's labels carry the user's id, and the worker sends everything before it ends.

    pip install "segment-async" taskiq
    SEGMENT_WRITE_KEY=... python taskiq_worker.py

The broker here works within one process, so that the example is complete. Yours comes from a package such as
taskiq-redis, and its workers are separate processes: `taskiq worker taskiq_worker:broker`.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Annotated

from taskiq import Context, InMemoryBroker, TaskiqDepends, TaskiqEvents, TaskiqState

from segment_async import Client, bound

broker = InMemoryBroker()


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def start(state: TaskiqState) -> None:
    state.segment = Client(os.environ.get("SEGMENT_WRITE_KEY", "WRITE_KEY"))


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def stop(state: TaskiqState) -> None:
    await state.segment.aclose()


async def segment_of(context: Annotated[Context, TaskiqDepends()]) -> AsyncIterator[Client]:
    """The worker's client; its calls have the identity from the task's labels."""
    with bound(user_id=context.message.labels.get("user_id"), without_identity="drop"):
        yield context.state.segment


Segment = Annotated[Client, TaskiqDepends(segment_of)]


@broker.task
async def send_receipt(order_id: str, segment: Segment) -> None:
    await segment.track(event="Receipt Sent", properties={"order_id": order_id})


async def pay(order_id: str, user_id: str) -> None:
    """Called in the web application."""
    await send_receipt.kicker().with_labels(user_id=user_id).kiq(order_id)  # type: ignore[call-overload]


async def main() -> None:
    await broker.startup()
    await pay("A-1001", "user-1")
    await broker.wait_all()
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
