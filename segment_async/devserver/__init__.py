"""A Segment on localhost: accepts what Segment accepts, and shows what Segment would silently drop.

It is the other side of the wire. Of this package it imports only `segment_async.verdicts`, so that a test against it
is meaningful. `python -m segment_async.devserver` runs it; `serve` runs it within a program:

    async with serve() as endpoint:
        ...  # Client("key", host=endpoint.url)
        await endpoint.wait(3)
        assert [message["type"] for message in endpoint.messages] == ["identify", "track", "track"]
"""

from ._arrivals import Event, ReceivedBatch
from ._endpoint import Endpoint, serve
from ._lines import line, parts
from ._run import Options, run
from ._tracking import Answered

__all__ = ["Answered", "Endpoint", "Event", "Options", "ReceivedBatch", "line", "parts", "run", "serve"]
