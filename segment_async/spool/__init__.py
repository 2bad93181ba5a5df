"""Where accepted messages wait on disk, and what it takes to keep them somewhere else.

    Client(key, spool="analytics.db")                                   # SQLite with its defaults
    Client(key, spool=SQLiteSpool("analytics.db", max_bytes=2**32))     # with options
    Client(key, spool=MySpool())                                        # any implementation of the protocol `Spool`

`SpoolInspector` shows and changes what is on disk, with or without processes that use it. `Spool` describes the
protocol call by call.
"""

from typing import TYPE_CHECKING, Any

from segment_async._exceptions import SpoolUnavailable
from segment_async._outcome import BatchResult, Status

from ._protocol import (
    Appended,
    AppendResult,
    DroppedMessage,
    Intake,
    NewMessage,
    Outlet,
    Spool,
    SpoolStatistics,
    StoredMessage,
    TryLater,
    Window,
)

if TYPE_CHECKING:
    from ._inspect import DeadLetter, PendingMessage, ShardStatus, SpoolInspector
    from ._sqlite import SQLiteSpool

# The engine imports sqlite3, which a client without a spool does not need.
_INSPECT = ("DeadLetter", "PendingMessage", "ShardStatus", "SpoolInspector")
_ENGINE = {"SQLiteSpool": "_sqlite", **dict.fromkeys(_INSPECT, "_inspect")}

__all__ = [
    "AppendResult",
    "Appended",
    "BatchResult",
    "DeadLetter",
    "DroppedMessage",
    "Intake",
    "NewMessage",
    "Outlet",
    "PendingMessage",
    "SQLiteSpool",
    "ShardStatus",
    "Spool",
    "SpoolInspector",
    "SpoolStatistics",
    "SpoolUnavailable",
    "Status",
    "StoredMessage",
    "TryLater",
    "Window",
]


def __getattr__(name: str) -> Any:
    if name not in _ENGINE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_ENGINE[name]}", __name__), name)
