"""segment_async with its defaults, except for the host, and a larger queue where a measurement needs one.

It uses only public names, so that it also runs with other versions of the package.
"""

from typing import Any, Literal

from segment_async import Client


class Ours:
    awaits = True

    def __init__(self, client: Client) -> None:
        self._client = client
        self.track = client.track

    async def settle(self) -> None:
        await self._client.flush()

    async def close(self) -> None:
        await self._client.aclose()


async def start(
    url: str, queue_size: int | None, spool: Literal["process", "full"] | None = None, path: str = ""
) -> Ours:
    """`spool`: what messages in the spool at `path` survive: the process, or a power loss as well (the default)."""
    options: dict[str, Any] = {"host": url}
    if queue_size is not None:
        options |= {"max_queue_size": queue_size, "max_queue_bytes": 1 << 30}
    if spool == "full":
        options["spool"] = path
    elif spool is not None:
        from segment_async.spool import SQLiteSpool

        options["spool"] = SQLiteSpool(path, durability=spool)
    return Ours(Client("benchmark", **options))
