"""A `FaultServer` for tests without an event loop: it runs in a thread of its own."""

import asyncio
import threading
from typing import Any, Self

from .exchange import ReceivedRequest
from .fault_server import FaultServer, Script


class Served:
    """Use it as a context manager; what came is in `messages`, in order of arrival."""

    def __init__(self, script: Script = ()) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="server")
        self._script = script

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(self._start())
        self.url = self._server.url
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._run(self._server.__aexit__(None, None, None))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _start(self) -> FaultServer:
        return await FaultServer(self._script).__aenter__()

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    @property
    def script(self) -> Script:
        return self._server.script

    @script.setter
    def script(self, script: Script) -> None:
        self._server.script = script

    def reset_connections(self) -> None:
        self._run(self._server.reset_connections())

    @property
    def requests(self) -> list[ReceivedRequest]:
        return self._server.requests

    def wait_for_requests(self, count: int) -> None:
        self._run(self._server.wait_for_requests(count))

    @property
    def connections(self) -> int:
        """How many were made."""
        return self._server.connections

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [message for arrival in self._server.arrivals if arrival.taken for message in arrival.messages]
