"""One small module for each contestant: how to start it, call it and wait for its deliveries. Nothing is measured here.

A module here is imported in its contestant's own interpreter, never by the harness. It has one function,
`start(url, queue_size, **options)`, which returns an `Adapter`. Other SDKs are imported by name, since type checkers
look at the harness's environment and not at theirs.
"""

from collections.abc import Callable
from typing import Any, Protocol


class Adapter(Protocol):
    """A client that is ready for calls.

    `track(user_id, event, properties, context=...)` is the client's own method if its signature allows that, so that no
    wrapper is measured. `awaits` says whether the call must be awaited.
    """

    awaits: bool

    @property
    def track(self) -> Callable[..., Any]: ...

    async def settle(self) -> None:
        """Return when everything that was accepted has been sent, as far as the client knows."""

    async def close(self) -> None: ...
