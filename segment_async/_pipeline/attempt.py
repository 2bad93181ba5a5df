"""One request with one batch: credentials, headers, the time limit, the observers; or why there is no answer.

A task of the consumer's runs it and may be cancelled anywhere. This file knows neither which batch is next nor what an
answer means.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from segment_async._exceptions import TransportError, stack_of
from segment_async._http.deadline import Deadline
from segment_async._http.transport import Response, Secret, Transport
from segment_async._http.user_agent import USER_AGENT
from segment_async._lifecycle.tasks import ends_the_task
from segment_async._message.timestamps import millisecond_text
from segment_async.instrumentation import Request

from .auth import Auth, Refused
from .batch import Batch, Envelope
from .clock import LoopClock
from .limited_log import LimitedLog
from .queue import Queue
from .retry import Failure, History, NoCredentials, NoResponse

if TYPE_CHECKING:
    from .spool_feed import SpoolFeed

_log = logging.getLogger("segment_async")


class HoldsEnded(NamedTuple):
    """Nothing was sent: the spool says that other processes may have these messages now."""

    keys: Collection[int]


class RequestSender:
    """Makes the requests of one client.

    `timeout` (`None`: no limit of ours) and `give_up_after` in seconds; `wall_clock` since the epoch.
    """

    def __init__(
        self,
        queue: Queue,
        transport: Transport,
        auth: Auth,
        limited_log: LimitedLog,
        feed: SpoolFeed | None,
        *,
        envelope: Envelope,
        gzip: bool,
        timeout: float | None,
        give_up_after: float,
        clock: LoopClock,
        wall_clock: Callable[[], float],
        observers: Sequence[Callable[[Request], object]],
    ) -> None:
        self._queue = queue
        self._transport = transport
        self._auth = auth
        self._limited_log = limited_log
        self._feed = feed
        self._envelope = envelope
        self._gzip = gzip
        self._timeout = timeout
        self._give_up_after = give_up_after
        self._clock = clock
        self._wall_clock = wall_clock
        self._observers = observers
        self._over: deque[Request] = deque()

    async def send(self, batch: Batch) -> Response | Failure | HoldsEnded:
        """The answer, or why there is none. No credentials among the locals: a traceback may be shown with them."""
        try:
            authorization = await self._authorization(batch)
            # Before the wait for the spool's disk, which may take long: a 401 is about the token that is valid now.
            batch.sent_at = self._clock.now()
            if self._feed is not None and (ended := await self._feed.sending(batch.keys, batch.history.sends + 1)):
                return HoldsEnded(ended)
            # Last: what ends before this has sent nothing.
            if not self._note_send(batch):
                return NoResponse(maybe_sent=False, error="another event loop works for the client")
            if self._timeout is None:
                return await self._post(batch, authorization)
            async with Deadline(self._timeout):
                return await self._post(batch, authorization)
        except TransportError as error:
            _log.debug("No usable answer: %s", error)
            return NoResponse(error.maybe_sent, error.stale_connection, str(error), error.timed_out)
        except Refused as refusal:
            self._limited_log.warn("oauth", "No OAuth token; messages fail as unauthorized: %s", refusal)
            return NoCredentials()
        except BaseException as error:
            if ends_the_task(error):
                raise
            self._limited_log.warn("transport", "The transport raised; the batch is retried.\n%s", stack_of(error))
            text = f"the transport raised {type(error).__qualname__}"
            return NoResponse(maybe_sent=True, error=text, timed_out=isinstance(error, TimeoutError))

    async def _authorization(self, batch: Batch) -> Secret:
        """Waits for a token, if need be until the batch would be given up."""
        if not self._auth.has_tokens:
            return Secret(await self._auth.header())
        since = batch.history.first_failure
        since = self._clock.now() if since is None else since
        # Under a name for the reason that `Deadline` gives.
        limit = asyncio.timeout(since + self._give_up_after - self._clock.now())
        try:
            async with limit:
                return Secret(await self._auth.header())
        except TimeoutError:
            batch.history = batch.history._replace(first_failure=since)
        raise TransportError("no token came", maybe_sent=False)

    def _note_send(self, batch: Batch) -> bool:
        """Count a request; `False`: another loop has the batch, and this one began to run before it had cancelled the task."""
        history = batch.history._replace(sends=batch.history.sends + 1)
        accounts, loop = self._queue.accounts, asyncio.get_running_loop()
        with self._queue.lock:
            if self._clock.loop is not loop:
                return False
            batch.history = history
            accounts.requests += 1
            accounts.retries += history.sends > 1
        return True

    async def _post(self, batch: Batch, authorization: Secret) -> Response:
        started_at, start = self._wall_clock(), self._clock.now()
        try:
            answer = await self._transport.send(
                batch.body(self._envelope.tail(millisecond_text(int(started_at * 1000)))),
                self._headers(batch.history, authorization),
            )
        except BaseException as error:
            self._note_over(batch, started_at, start, None)
            if ends_the_task(error):
                # Nothing comes back to the consumer.
                self.tell()
            raise
        self._note_over(batch, started_at, start, answer)
        return answer

    def _note_over(self, batch: Batch, started_at: float, start: float, answer: Response | None) -> None:
        if self._observers:
            status = getattr(answer, "status", None)
            seconds = self._clock.now() - start
            self._over.append(Request(started_at, seconds, status, batch.history.sends, batch.count, batch.bodies))

    def tell(self) -> None:
        """Call the observers for each request that is over: once the counters know what became of its messages."""
        while self._over:
            request = self._over.popleft()
            for observer in self._observers:
                try:
                    observer(request)
                except BaseException as error:
                    if isinstance(error, (KeyboardInterrupt, SystemExit)):
                        raise
                    # Requests and their answers must not be lost for it: the batch would be sent twice.
                    self._limited_log.warn_once(
                        "observe", "An observer failed. This is logged once.\n%s", stack_of(error)
                    )

    def _headers(self, history: History, authorization: Secret) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "Authorization": authorization.value,
        }
        if self._gzip:
            headers["Content-Encoding"] = "gzip"
        if history.sends > 1:
            headers["X-Retry-Count"] = str(history.sends - 1)
        return headers
