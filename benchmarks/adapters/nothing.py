"""No client: the cost of the application itself, which is subtracted from the others."""

from typing import Any


class Nothing:
    awaits = False

    def track(self, user_id: str, event: str, properties: dict[str, Any], context: dict[str, Any]) -> None:
        return None

    async def settle(self) -> None: ...

    async def close(self) -> None: ...


async def start(url: str, queue_size: int | None) -> Nothing:
    return Nothing()
