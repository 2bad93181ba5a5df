"""What a spool has answered, and where each message goes because of that.

    stored, held ─► ready to be sent          known ─► ends as the first message with its id does
    stored ───────► on disk only              full, unavailable ─► dropped, unless its call is told
    stored, by a spool whose messages other processes deliver ─► handed over

An exception may come at any call: a signal handler that raises, a `MemoryError`. So whatever may be done twice comes
first; then, without a call in between, a message is counted and moves. What is left is dealt with the next time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice, repeat, starmap
from typing import Final
from weakref import WeakValueDictionary

from segment_async._exceptions import SpoolUnavailable
from segment_async._outcome import BatchResult, Status
from segment_async.spool._protocol import Appended, AppendResult, DroppedMessage

from .clock import LoopClock
from .delivery import (
    Delivery,
    SharedRecord,
    bodies_of,
    forget_bodies,
    is_called,
    is_in_no_batch,
    keys_of,
    move,
    place_one,
    settle_alone,
    settle_together,
    stored_as,
)
from .queue import Queue
from .reports import Reports
from .spool_calls import Answer, AwaitedCalls, Group

# For messages whose delivery is the business of another process, or of an earlier message with the same id.
_HANDED_OVER: Final = BatchResult(Status.HANDED_OVER)
STORED: Final = Appended("stored")
"""What a shared spool answers for each message."""


class SpoolAnswers:
    """Attributes:
    waiting: the answers to the last messages of `queue.appending`; fewer once some are dealt with.
    known: pending messages that are on disk only, or were not awaited, by their ids, as far as the application keeps their
        deliveries.
    keeps: the client is closing: what is stored from now on is not sent any more.
    full_since: when the spool became full; `None` once it took a message again.
    waits_for_record: the group that begins once an outcome is recorded: one of its messages has the id of that one.
    recorded: keys of messages whose outcomes were recorded since the group under way began, the last ones: an answer that
        was on its way may still say that they are pending.
    """

    def __init__(
        self,
        queue: Queue,
        clock: LoopClock,
        reports: Reports,
        calls: AwaitedCalls,
        *,
        hands_over: bool,
        is_ending: Callable[[int], bool],
    ) -> None:
        self.waiting: deque[Answer] = deque()
        self.known: WeakValueDictionary[str, Delivery] = WeakValueDictionary()
        self.keeps = False
        self.full_since: float | None = None
        self.waits_for_record: Group | None = None
        self.recorded: deque[int] = deque(maxlen=10_000)
        self._queue = queue
        self._clock = clock
        self._reports = reports
        self._calls = calls
        # Whatever is stored is another process's business.
        self._hands_over = hands_over
        # Whether what the spool calls so has ended, and is not recorded yet.
        self._is_ending = is_ending
        # What the spool gave up to make room for the messages that were answered.
        self._dropped: deque[DroppedMessage] = deque()
        # What the spool gave up and was counted, to be reported without the lock.
        self._lost: deque[tuple[BatchResult, bytes]] = deque()
        # By their keys: messages on disk only whose ids it has by other keys, too. So it has given them up, and will say so, or
        # has a message of another process with the same id.
        self._replaced: WeakValueDictionary[int, Delivery] = WeakValueDictionary()
        # Keys whose hold ended, the last ones: other processes have these messages.
        self._elsewhere: deque[int] = deque(maxlen=10_000)

    def bring(self, result: AppendResult | SpoolUnavailable) -> None:
        """The answer to all of `queue.appending`; `take` deals with it. The lock is held. May be done again if it raises."""
        count, dropped = len(self._queue.appending), self._dropped
        answers: Iterable[Answer]
        if isinstance(result, AppendResult) and len(result.answers) == count:
            answers = result.answers
            if result.dropped:
                dropped = deque([*dropped, *result.dropped])
        else:
            if not isinstance(result, SpoolUnavailable):
                # Not what the protocol says; whatever else was done with it, nothing would go on.
                result = SpoolUnavailable("the spool did not answer for each message", maybe_stored=True)
            answers = repeat(result, count)
        try:
            self.waiting.extend(answers)
        except BaseException:
            # Memory ran out amid them.
            self.waiting.clear()
            raise
        self._dropped = dropped

    def take(self) -> None:
        """Each message goes where its answer says."""
        answers, queue = self.waiting, self._queue
        ready, has_others = 0, False
        if not (answers or self._dropped):
            return
        while answers or self._dropped:
            refused = None
            with queue.lock:
                while len(answers) > len(queue.appending):
                    # Its message was moved when an exception came in between.
                    answers.popleft()
                held = self._take_stored()
                ready += held or 0
                if held is None and answers:
                    refused = self._take_one()
                has_others = has_others or held is None or self._hands_over
                # Last, as they may be of the same group.
                while self._dropped and not answers:
                    self.lose(self._dropped[0])
                    del self._dropped[0]
                queue.room.note_room()
            if refused is not None:
                self.report_dropped(*refused)
        if has_others:
            self.report_lost()
            # Some have their outcome, or share another's.
            queue.queued.moved.notify()
            queue.notify()
        else:
            queue.notify_stored(ready)

    def _take_stored(self) -> int | None:
        """The ordinary case, in few steps: the first messages are stored. The lock is held.

        Returns how many became ready to be sent; `None`: it is not the ordinary case.
        """
        answers, queue = self.waiting, self._queue
        if self._dropped:
            return None
        keys, held = _stored_first(answers)
        if not keys:
            return None
        self.full_since = None
        group = [*islice(queue.appending, len(keys))]
        leaving = group[held:]
        size = sum(map(len, bodies_of(leaving)))
        # Up to the moves all of it may be done again, if an exception comes in between; then, for the others.
        if self._hands_over:
            settle_together(leaving, queue.queued.host, _HANDED_OVER)
        else:
            stored_as(group, keys)
            for delivery in leaving:
                self._know(delivery)
        self._calls.note_all(group, answers)
        move(group[:held], queue.appending, queue.ready)
        moves = starmap(queue.appending.popleft, repeat((), len(leaving)))
        if self._hands_over:
            queue.leave(len(leaving), size, _HANDED_OVER)
        else:
            queue.accounts.unload(len(leaving), size)
        deque(moves, maxlen=0)
        deque(starmap(answers.popleft, repeat((), len(keys))), maxlen=0)
        forget_bodies(leaving)
        return held

    def _take_one(self) -> tuple[Delivery, BatchResult, bytes] | None:
        """The first message goes where its answer says; what is dropped is returned. The lock is held.

        An exception may come at any call. So whatever may be done twice comes first; then, without a call in between, the
        message is counted and leaves.
        """
        queue, answer, delivery = self._queue, self.waiting[0], self._queue.appending[0]
        body = bodies_of((delivery,))[0]
        status, key = _read_answer(answer)
        if status == "known" and (self._is_ending(key) or key in self.recorded):
            # The first one has ended: this is a new message, as soon as the spool knows that.
            self.waits_for_record = self.waits_for_record or Group(self._clock.now())
            if not queue.incoming or queue.incoming[0] is not delivery:
                queue.incoming.appendleft(delivery)
            del queue.appending[0], self.waiting[0]
            return None
        if status == "full":
            self.full_since = self._clock.now() if self.full_since is None else self.full_since
        was_arriving = self._calls.note(delivery, answer)
        result: BatchResult | None = None
        if status == "stored" and not self._hands_over:
            self._keep(delivery, answer, len(body))
        else:
            result = self._end(delivery, answer, len(body), was_arriving)
        if was_arriving:
            del self._calls.awaited[delivery]
            queue.accounts.arriving -= 1
        del queue.appending[0], self.waiting[0]
        may_be_tried_again = result is None and status in ("full", "unavailable")
        if not (may_be_tried_again or _is_held(answer)):
            # Only now: its size was needed until it had left.
            forget_bodies((delivery,))
        return (delivery, result, body) if result is not None and result.status is Status.DROPPED else None

    def _keep(self, delivery: Delivery, answer: Answer, size: int) -> None:
        """The message is stored: it is ready to be sent, or on disk only."""
        queue = self._queue
        stored_as((delivery,), _read_answer(answer)[1:])
        if _is_held(answer):
            if not queue.ready or queue.ready[-1] is not delivery:
                queue.ready.append(delivery)
            return
        earlier = self.known.get(delivery.message_id, delivery)
        if earlier is not delivery and earlier.outcome is None:
            self._lose_earlier(earlier)
        self._know(delivery)
        queue.accounts.unload(1, size)

    def _know(self, delivery: Delivery) -> None:
        """The message is on disk only."""
        earlier = self.known.get(delivery.message_id)
        if earlier is not None and earlier is not delivery and earlier.outcome is None:
            [key], [body] = keys_of((earlier,)), bodies_of((earlier,))
            # Else it waits to be stored, and 0 may be what the spool calls another one.
            if key or not body:
                self._replaced[key] = earlier
        self.known[delivery.message_id] = delivery

    def _lose_earlier(self, earlier: Delivery) -> None:
        """A message was stored with the id of this one, so that the spool has dropped this one to make room for the group.

        For a spool that gives no keys: afterwards it is not known which of the two was dropped.
        """
        for index, dropped in enumerate(self._dropped):
            if dropped.message_id == earlier.message_id and dropped.key is None:
                self.lose(dropped)
                del self._dropped[index]
                return

    def _end(self, delivery: Delivery, answer: Answer, size: int, was_arriving: bool) -> BatchResult | None:
        """The message ends here. Returns how it is counted; `None`: it is not accepted after all."""
        queue, result = self._queue, None
        status, key = _read_answer(answer)
        is_known = status == "known"
        if status == "stored" or (is_known and not was_arriving):
            result = _HANDED_OVER
        elif not was_arriving:
            reason = "queue_full" if status == "full" else "spool_unavailable"
            may_be_stored = isinstance(answer, SpoolUnavailable) and answer.maybe_stored
            result = BatchResult(Status.DROPPED, reason, possibly_delivered=may_be_stored)
        if is_known and not (self._hands_over or key in self._elsewhere):
            # Counted or not: its outcome is that of the first one.
            self._share(delivery, key)
        elif result is not None or is_known:
            settle_together((delivery,), queue.queued.host, result or _HANDED_OVER)
        queue.leave(1, size, result)
        return result

    def _share(self, delivery: Delivery, key: int) -> None:
        """The message has the id of one that is pending: it ends as that one does. The lock is held."""
        queue = self._queue
        opened = queue.backlog.open
        in_memory = [*queue.ready, *(opened.deliveries if opened is not None else ())]
        first = next((one for one in in_memory if is_called(one, key)), self.on_disk(delivery.message_id, key))
        if first is not None and first is not delivery:
            place_one(delivery, SharedRecord(queue.queued.host, first), 0)
            return
        for batch in (*queue.backlog.waiting, *queue.backlog.in_flight):
            if key in batch.keys:
                place_one(delivery, batch.record, batch.offset + batch.keys.index(key))
                return
        stored_as((delivery,), (key,))
        self._know(delivery)

    @property
    def knows_any(self) -> bool:
        """Whether `on_disk` may find a message."""
        return bool(len(self.known) or len(self._replaced))

    def on_disk(self, message_id: str, key: int) -> Delivery | None:
        """The pending message that the spool calls so, as far as the application keeps its delivery.

        Not another one with this id: an outcome is final, also of a message that was handed over and has come back; and one
        may wait for the spool's answer, or have been given up, which the spool has not said yet.
        """
        found = (self.known.get(message_id), self._replaced.get(key))
        return next((one for one in found if one is not None and one.outcome is None and is_called(one, key)), None)

    def lose(self, dropped: DroppedMessage) -> None:
        """The spool itself gave a message up; the lock is held, and `report_lost` follows without it."""
        queue, result = self._queue, BatchResult(Status.DROPPED, dropped.reason)
        known = self.known.get(dropped.message_id)
        delivery = known if dropped.key is None else self._replaced.get(dropped.key, known)
        if delivery is not None and self._is_given_up(delivery, dropped):
            if delivery.outcome is None:
                # Else it was dropped as the spool did not answer, and was stored after all.
                settle_alone(delivery, queue.queued.host, result)
            if delivery is known:
                self.known.pop(dropped.message_id, None)
            queue.queued.moved.notify()
        if dropped.body:
            self._lost.append((result, dropped.body))
        # Last: an exception before this has it done again.
        queue.accounts.lose(len(dropped.body), result)
        queue.order.read_count += 1

    def _is_given_up(self, delivery: Delivery, dropped: DroppedMessage) -> bool:
        """Whether the spool gave this message up, or it has ended; else it is a later one with the same id."""
        if delivery.outcome is not None:
            return True
        if dropped.key is not None:
            return is_called(delivery, dropped.key)
        # The spool does not say: then one that is on disk only.
        return bodies_of((delivery,)) == [b""] and is_in_no_batch(delivery, self._queue.queued)

    def report_lost(self) -> None:
        """Report the messages that the spool gave up. Without the lock, as reports may be logged."""
        while self._lost:
            try:
                result, body = self._lost.popleft()
            except IndexError:
                # Another thread, or a signal handler, was faster.
                return
            self._reports.add(result, partial(_alone, body), len(body))

    def note_elsewhere(self, keys: Iterable[int]) -> None:
        """Other processes have these messages now, and those with the same ids."""
        self._elsewhere.extend(keys)

    def report_dropped(self, delivery: Delivery, result: BatchResult, body: bytes) -> None:
        """Report a message that was dropped."""
        self._queue.queued.moved.notify()
        self._reports.add(result, partial(_alone, body), len(body))
        if result.reason == "spool_unavailable":
            self._reports.limited_log.warn(
                "spool_unavailable", "The spool cannot store messages; those that cannot wait are dropped."
            )


def _stored_first(answers: Iterable[Answer]) -> tuple[list[int], int]:
    """What the spool calls the first messages, as far as all are stored, and how many of them, at the front, are held."""
    keys: list[int] = []
    held = 0
    for answer in answers:
        if isinstance(answer, SpoolUnavailable) or answer.status != "stored" or (answer.held and held < len(keys)):
            break
        keys.append(answer.key or 0)
        held += answer.held
    return keys, held


def _read_answer(answer: Answer) -> tuple[str, int]:
    """What became of a message, and what the spool calls it."""
    return ("unavailable", 0) if isinstance(answer, SpoolUnavailable) else (answer.status, answer.key or 0)


def _is_held(answer: Answer) -> bool:
    return not isinstance(answer, SpoolUnavailable) and answer.held


def _alone(body: bytes) -> tuple[bytes]:
    return (body,)
