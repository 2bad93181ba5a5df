"""One request with one batch: credentials, headers, the time limit, who is told; and why there is no answer, if so.

A task of the sender's runs it and may be cancelled anywhere. This file knows neither which batch is next nor what an
answer means.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from segment_async._exceptions import TransportError
from segment_async._http.deadline import Deadline
from segment_async._http.transport import Response, Secret, Transport
from segment_async._http.user_agent import USER_AGENT
from segment_async._message.timestamps import clock_text
from segment_async.instrumentation import Request

from .auth import Auth, Refused
from .batch import Batch, Envelope
from .delivery import History
from .queue import Queue
from .reports import Reports, stack_of
from .retry import NoAnswer, NoCredentials, Silence
from .spool_feed import Spooling

_log = logging.getLogger("segment_async")


class Attempts:
    """Makes the requests of one client.

    `timeout` (`None`: no limit of ours) and `give_up_after` in seconds; `now` on the sender's clock, `wall` since the
    epoch.
    """

    def __init__(
        self,
        queue: Queue,
        transport: Transport,
        auth: Auth,
        reports: Reports,
        spooling: Spooling | None,
        *,
        envelope: Envelope,
        gzip: bool,
        timeout: float | None,
        give_up_after: float,
        now: Callable[[], float],
        wall: Callable[[], float],
        listeners: Sequence[Callable[[Request], object]],
    ) -> None:
        self._queue = queue
        self._transport = transport
        self._auth = auth
        self._reports = reports
        self._spooling = spooling
        self._envelope = envelope
        self._gzip = gzip
        self._timeout = timeout
        self._give_up_after = give_up_after
        self._now = now
        self._wall = wall
        self._listeners = listeners

    async def make(self, batch: Batch) -> Response | Silence:
        """No credentials among the locals here: a traceback may be shown with them."""
        try:
            authorization = await self._authorization(batch)
            self._note_send(batch)
            if self._spooling is not None:
                await self._spooling.sending(batch.keys, batch.history.sends)
            if self._timeout is None:
                return await self._send(batch, authorization)
            async with Deadline(self._timeout):
                return await self._send(batch, authorization)
        except TransportError as error:
            _log.debug("No usable answer: %s", error)
            return NoAnswer(error.maybe_sent, error.stale_connection)
        except Refused as refusal:
            self._reports.warn("oauth", "No token, so that messages fail as unauthorized: %s", refusal)
            return NoCredentials()
        except Exception as error:
            self._reports.warn("transport", "The transport raised; the batch is sent again.\n%s", stack_of(error))
            return NoAnswer(maybe_sent=True)

    async def _authorization(self, batch: Batch) -> Secret:
        """Waits for a token, if need be until the batch would be given up."""
        if not self._auth.has_tokens:
            return Secret(await self._auth.header())
        since = batch.history.first_failure
        since = self._now() if since is None else since
        # Under a name for the reason that `Deadline` gives.
        limit = asyncio.timeout(since + self._give_up_after - self._now())
        try:
            async with limit:
                return Secret(await self._auth.header())
        except TimeoutError:
            batch.history = batch.history._replace(first_failure=since)
        raise TransportError("no token came", maybe_sent=False)

    def _note_send(self, batch: Batch) -> None:
        with self._queue.lock:
            batch.history = batch.history._replace(sends=batch.history.sends + 1)
            batch.sent_at = self._now()
            self._queue.requests += 1
            self._queue.retries += batch.history.sends > 1

    async def _send(self, batch: Batch, authorization: Secret) -> Response:
        started_at, start, answer = self._wall(), self._now(), None
        try:
            answer = await self._transport.send(
                batch.body(self._envelope.tail(clock_text(started_at))), self._headers(batch.history, authorization)
            )
            return answer
        finally:
            for listener in self._listeners:
                self._tell(listener, batch, started_at, self._now() - start, answer)

    def _tell(
        self,
        listener: Callable[[Request], object],
        batch: Batch,
        started_at: float,
        seconds: float,
        answer: Response | None,
    ) -> None:
        status = getattr(answer, "status", None)
        try:
            listener(Request(started_at, seconds, status, batch.history.sends, batch.count, batch.messages))
        except Exception as fault:
            # An answer that came is not to be lost to whoever only watches: the batch would be sent twice.
            self._reports.warn_once("observe", "An observer failed; it is asked on. Said once.\n%s", stack_of(fault))

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
