"""The only place in the benchmarks that imports private names of the package: two functions that `anatomy` times.

No public name times these steps alone: `messages.track` also reads generators and copies, and a call also queues.
"""

from typing import Any

from benchmarks.workload import Call
from segment_async._message import build
from segment_async._message.encode import encode


def checked(call: Call) -> dict[str, Any]:
    """The message's dict, checked, without its id and the library's context."""
    user_id, event, properties, context = call
    return build.track(user_id, event, properties, context=context)


def encoded(call: Call) -> bytes:
    """The same as JSON."""
    return encode(checked(call))
