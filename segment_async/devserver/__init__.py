"""A Segment on localhost: accepts what Segment accepts, and says what Segment would silently drop.

The other side of the wire. It imports nothing of ours but `segment_async.verdicts`, so that a test against it proves
something. `python -m segment_async.devserver` runs it; `serve` is the same within a program:

    async with serve() as endpoint:
        ...  # Client("key", host=endpoint.url)
        await endpoint.wait(3)
        assert [message["type"] for message in endpoint.messages] == ["identify", "track", "track"]
"""

from ._arrivals import Batch, Event
from ._endpoint import Endpoint, serve
from ._lines import line, parts
from ._run import Options, run
from ._tracking import Answered

__all__ = ["Answered", "Batch", "Endpoint", "Event", "Options", "line", "parts", "run", "serve"]
