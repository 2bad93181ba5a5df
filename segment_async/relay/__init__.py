"""Hand messages over to Redis or Valkey, from which relay processes deliver them.

    client = Client(key, spool=RedisSpool("rediss://..."), deliver=False)     # a web host, which only hands over
    $ segment-async relay rediss://...                                        # one or several of these deliver

`run_relay` is that command in Python. Needs the extra ``redis``; Redis 6.2, Valkey 7.2, or later. `RelayInspector` shows and changes what waits there.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._inspect import RelayInspector, RelayStatus
    from ._reader import Consumer
    from ._run import RelayOptions, run_relay
    from ._spool import RedisSpool

_MODULES = {
    "Consumer": "_reader",
    "RedisSpool": "_spool",
    "RelayInspector": "_inspect",
    "RelayOptions": "_run",
    "RelayStatus": "_inspect",
    "run_relay": "_run",
}

__all__ = ["Consumer", "RedisSpool", "RelayInspector", "RelayOptions", "RelayStatus", "run_relay"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
