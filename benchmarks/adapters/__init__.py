"""One small script a contestant: how it is started, called, settled. Nothing is measured here.

A module here is imported in its contestant's own interpreter, never by the harness. It has one function,
`start(url, queue_size, **options)`, whose answer is an `Adapter`. Peers are brought in by name, for a type checker sees the
harness's environment, not theirs.
"""

from collections.abc import Callable
from typing import Any, Protocol


class Adapter(Protocol):
    """A client, ready to be called.

    `track(user_id, event, properties, context=...)` is the client's own method wherever its signature allows, so that
    no wrapper is measured; `awaits` says whether its answer is to be awaited.
    """

    awaits: bool

    @property
    def track(self) -> Callable[..., Any]: ...

    async def settle(self) -> None:
        """Return when all that was accepted has been sent, as far as the client knows."""

    async def close(self) -> None: ...
