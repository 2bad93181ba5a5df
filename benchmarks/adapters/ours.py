"""segment_async, with its defaults but for the address, and for the queue's size where a part asks for room."""

from typing import Any, Literal

from segment_async import Client
from segment_async.spool import SQLiteSpool


class Ours:
    awaits = True

    def __init__(self, client: Client) -> None:
        self._client = client
        self.track = client.track

    async def settle(self) -> None:
        await self._client.flush()

    async def close(self) -> None:
        await self._client.aclose()


async def start(url: str, room: int | None, spool: Literal["process", "full"] | None = None, path: str = "") -> Ours:
    """`spool`: what a message on disk, at that path, survives."""
    limits: dict[str, Any] = {} if room is None else {"max_queue_size": room, "max_queue_bytes": 1 << 30}
    keeper = None if spool is None else SQLiteSpool(path, durability=spool)
    return Ours(Client("benchmark", host=url, spool=keeper, **limits))
