"""The spool's door: where accepted messages wait on disk, and what it takes to put something else there.

    Client(key, spool="analytics.db")                                   # SQLite, as it comes
    Client(key, spool=SQLiteSpool("analytics.db", max_bytes=2**32))     # with options
    Client(key, spool=MySpool())                                        # anything that keeps the protocol `Spool`

`SpoolVisitor` looks at what is on disk from outside, and changes it, beside running processes.

The protocol is described, call by call, at `Spool` and at the top of the file that it lives in.
"""

from ._delivery import Fate, Status
from ._exceptions import SpoolUnavailable
from ._spool import Appended, DroppedMessage, Spool, SpoolStatistics, StoredMessage, Window
from ._spool_sqlite import SQLiteSpool
from ._spool_visit import DeadLetter, PendingMessage, ShardStatus, SpoolVisitor

__all__ = [
    "Appended",
    "DeadLetter",
    "DroppedMessage",
    "Fate",
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
