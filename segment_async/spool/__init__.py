"""The spool's door: where accepted messages wait on disk, and what it takes to put something else there.

    Client(key, spool="analytics.db")                                   # SQLite, as it comes
    Client(key, spool=SQLiteSpool("analytics.db", max_bytes=2**32))     # with options
    Client(key, spool=MySpool())                                        # anything that keeps the protocol `Spool`

`SpoolVisitor` looks at what is on disk from outside, and changes it, beside running processes.

The protocol is described, call by call, at `Spool` and at the top of the file that it lives in.
"""

from typing import TYPE_CHECKING, Any

from segment_async._exceptions import SpoolUnavailable
from segment_async._outcome import BatchResult, Status

from ._protocol import Appended, DroppedMessage, Spool, SpoolStatistics, StoredMessage, Window

if TYPE_CHECKING:
    from ._sqlite import SQLiteSpool
    from ._visit import DeadLetter, PendingMessage, ShardStatus, SpoolVisitor

# The engine brings sqlite3 along, which a client without a spool does not need.
_ENGINE = {
    "DeadLetter": "_visit",
    "PendingMessage": "_visit",
    "SQLiteSpool": "_sqlite",
    "ShardStatus": "_visit",
    "SpoolVisitor": "_visit",
}

__all__ = [
    "Appended",
    "BatchResult",
    "DeadLetter",
    "DroppedMessage",
    "PendingMessage",
    "SQLiteSpool",
    "ShardStatus",
    "Spool",
    "SpoolStatistics",
    "SpoolUnavailable",
    "SpoolVisitor",
    "Status",
    "StoredMessage",
    "Window",
]


def __getattr__(name: str) -> Any:
    if name not in _ENGINE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_ENGINE[name]}", __name__), name)
