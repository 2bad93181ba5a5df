"""The way into a spool: messages are stored in groups, and then ready to be sent, or on disk only.

    the queue ─► appending ─► spool.append_nowait ─► answers ─┬─► held: ready to be sent
                                                              └─► on disk only, until it is read

One group is under way at a time, and what comes meanwhile is the next one. It needs no loop, so that a message is
stored although no loop runs. Whatever interrupts a step here (a signal handler that raises, a `MemoryError`) leaves the
message in the queue, in `appending`, or where its answer put it; `is_interrupted` says that `pump` has to go on.

This file knows the spool's protocol and nothing else of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import accumulate, repeat, starmap
from typing import Final
from weakref import WeakValueDictionary

from segment_async._exceptions import QueueFull, SpoolUnavailable, stack_of
from segment_async._lifecycle.waiting import MOMENT, call_in, settle_all, wait_until
from segment_async._outcome import BatchResult, Status
from segment_async.spool._protocol import (
    Appended,
    AppendResult,
    DroppedMessage,
    Intake,
    NewMessage,
    TryLater,
    is_shared,
)

from .clock import LoopClock
from .delivery import (
    Delivery,
    SharedRecord,
    bodies_of,
    forget_bodies,
    keys_of,
    place_all,
    settle_alone,
    settle_together,
    stored_as,
)
from .queue import Queue
from .reports import Reports

# Messages that one append takes.
_GROUP: Final = 500
# Seconds until a spool that was full is asked again, for room that other processes make; doubled each time.
_RETRY_SECONDS: Final = 0.5
_LONGEST_RETRY_SECONDS: Final = 30.0
# Seconds that a call waits for the disk at least: also one that is not to wait for room in the queue.
_DISK_SECONDS: Final = 1.0
# For messages whose delivery is the business of another process, or of an earlier message with the same id.
_HANDED_OVER: Final = BatchResult(Status.HANDED_OVER)
# What a shared spool answers for each message.
_STORED: Final = Appended("stored")

_Answer = Appended | SpoolUnavailable
_Answered = tuple[asyncio.Future[_Answer], _Answer]


class _Group:
    """Messages that the spool is storing.

    Attributes:
        since: when they were handed over, by the client's clock.
        hold: how many of them may be held at once.
    """

    __slots__ = ("hold", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.hold = 0


class SpoolIntake:
    """Attributes:
    known: pending messages that are on disk only, or were not awaited, by their ids, as far as the application keeps their
        deliveries.
    keeps: the client is closing: what is stored from now on is not sent any more.
    """

    def __init__(
        self,
        spool: Intake,
        queue: Queue,
        clock: LoopClock,
        reports: Reports,
        *,
        deliver: bool,
        is_ending: Callable[[int], bool],
    ) -> None:
        self.known: WeakValueDictionary[str, Delivery] = WeakValueDictionary()
        self.keeps = False
        self._spool = spool
        self._queue = queue
        self._clock = clock
        self._reports = reports
        self._deliver = deliver
        # Whatever is stored is another process's business.
        self._hands_over = not deliver or is_shared(spool)
        # Whether what the spool calls so has ended, and is not recorded yet.
        self._is_ending = is_ending
        # Calls that wait until their message is stored; `None`: one that has waited for too long.
        self._awaited: dict[Delivery, asyncio.Future[_Answer] | None] = {}
        # Loops that have a timer for such calls.
        self._watched: set[asyncio.AbstractEventLoop] = set()
        # The answers to the last messages of `queue.appending`; fewer once some are dealt with.
        self._answers: deque[_Answer] = deque()
        self._dropped: deque[DroppedMessage] = deque()
        # The group under way; an answer to another one, which comes twice or too late, is passed over.
        self._group: _Group | None = None
        # When the spool became full; `None` once it took a message again.
        self._full_since: float | None = None
        # The spool lets messages wait in memory: when it is asked again, and the loop that has a timer for it.
        self._not_before: float | None = None
        self._timer_loop: asyncio.AbstractEventLoop | None = None
        # The loop whose next turn gives the spool a group.
        self._pumping_loop: asyncio.AbstractEventLoop | None = None
        # A message has the id of one that has ended, which has to be recorded first.
        self._waits_for_record = False
        # Keys whose hold ended, the last ones: other processes have these messages.
        self._elsewhere: deque[int] = deque(maxlen=10_000)

    # -- one message

    async def append(self, delivery: Delivery, size: int) -> Delivery | None:
        """Wait until the message is stored; `None`: it is to be dropped as the queue or the spool is full.

        If it is cancelled after the message was queued, the message stays accepted.

        Raises:
            SpoolUnavailable: it could not be stored and is not accepted; or the spool does not answer for longer than
                callers are to be held up (`maybe_stored`: it counts as accepted if the spool stores it after all).
            QueueFull, ClientClosed: as for a queue in memory.
        """
        pause = _RETRY_SECONDS
        while True:
            if self._not_before is not None:
                taken = await self._queue.put(delivery, size, paced=False)
                self._pump_for_call()
                return delivery if taken else None
            answer = await self._answer_to(delivery, size)
            if answer is None:
                return None
            if isinstance(answer, SpoolUnavailable):
                # Of its own: many callers have this answer, and each would add its frames to the others' traceback.
                raise SpoolUnavailable(*answer.args, maybe_stored=answer.maybe_stored) from None
            if answer.status != "full":
                return delivery
            if not await self._may_wait_for_room(pause):
                return None
            pause = min(2 * pause, _LONGEST_RETRY_SECONDS)

    def append_nowait(self, delivery: Delivery, size: int) -> Delivery | None:
        """Queue the message for the next group; `None`: it is to be dropped. A known id shares the first one's outcome.

        Raises:
            QueueFull, ClientClosed: as for a queue in memory.
        """
        self._queue.check_open()
        first = self.known.setdefault(delivery.message_id, delivery)
        if first is not delivery:
            if first.outcome is None:
                return first
            self.known[delivery.message_id] = delivery
        if not self._queue.put_nowait(delivery, size):
            return None
        self._pump_for_call()
        return delivery

    async def _answer_to(self, delivery: Delivery, size: int) -> _Answer | None:
        """What the spool answers; `None`: the queue has no room."""
        queue, loop = self._queue, asyncio.get_running_loop()
        self._check_time()
        stored: asyncio.Future[_Answer] = loop.create_future()
        self._awaited[delivery] = stored
        try:
            taken = queue.offer_arriving(delivery, size)
            if not (taken or await queue.put(delivery, size, paced=False, arriving=True)):
                self._awaited.pop(delivery, None)
                return None
            self._pump_soon(loop)
        except BaseException:
            self._leave(delivery)
            # If the message was queued, the recorder goes on with it.
            queue.notify()
            raise
        self._watch(loop)
        try:
            return await stored
        except asyncio.CancelledError:
            self._accept_unanswered(delivery)
            raise

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the timer that ends the calls of this loop if the spool does not answer: one for all of them."""
        limit = self._queue.room.timeout
        if limit is None or loop in self._watched:
            return
        for closed in [other for other in self._watched.copy() if other.is_closed()]:
            self._watched.discard(closed)
        self._watched.add(loop)
        left = self._time_left()
        seconds = max(limit, _DISK_SECONDS) if left is None else max(0.0, left)
        # A moment later, so that an answer that is there by then counts.
        loop.call_later(seconds + MOMENT, self._look_at_time, loop)

    def _look_at_time(self, loop: asyncio.AbstractEventLoop, late: _Group | None = None) -> None:
        """`late`: the group that was late at the last look."""
        self._watched.discard(loop)
        left, group = self._time_left(), self._group
        waiting = [(delivery, future) for delivery, future in self._awaited.copy().items() if future is not None]
        if left is None or left > MOMENT:
            if waiting:
                self._watch(loop)
        elif group is not late:
            # Perhaps the process was stopped, and not the disk: an answer that is on its way gets another turn.
            self._watched.add(loop)
            loop.call_soon(self._look_at_time, loop, group)
        else:
            with self._queue.lock:
                ended = [(delivery, future) for delivery, future in waiting if self._awaited.get(delivery) is future]
                # They are arriving still; the spool's answer will count them.
                self._awaited.update((delivery, None) for delivery, _ in ended)
            settle_all([(future, _no_answer(maybe_stored=True)) for _, future in ended])

    def _leave(self, delivery: Delivery) -> None:
        """The call ends with an exception: if that came after the message was queued, the answer will count it."""
        with self._queue.lock:
            if delivery in self._queue.unstored or delivery in self._queue.appending:
                self._awaited[delivery] = None
            else:
                self._awaited.pop(delivery, None)

    def _accept_unanswered(self, delivery: Delivery) -> None:
        """The call was cancelled: its message counts as accepted now, whatever the spool will say."""
        with self._queue.lock:
            # `None`: it has waited for too long, and the answer will count it.
            if self._awaited.get(delivery) is not None:
                del self._awaited[delivery]
                self._queue.accounts.arriving -= 1

    def _time_left(self) -> float | None:
        """Seconds that the append under way may still take without holding callers up for too long; `None`: any time."""
        limit, group = self._queue.room.timeout, self._group
        return None if limit is None or group is None else group.since + max(limit, _DISK_SECONDS) - self._clock.now()

    def _check_time(self) -> None:
        """Raises:
        SpoolUnavailable: the spool has not answered for too long already: callers wait for a stalled disk once.
        """
        left = self._time_left()
        if left is not None and left <= 0:
            raise _no_answer(maybe_stored=False)

    async def _may_wait_for_room(self, seconds: float) -> bool:
        """Whether a full spool is worth another try; has waited until something was settled then, or for so long."""
        queue = self._queue
        if queue.overflow == "raise":
            raise QueueFull("the spool is full: messages come faster than they can be sent")
        limit, since = queue.room.timeout, self._full_since
        is_over = limit is not None and since is not None and self._clock.now() >= since + limit - MOMENT
        if queue.overflow != "wait" or is_over:
            return False
        gone = queue.accounts.gone
        end = asyncio.get_running_loop().time() + seconds
        await wait_until(
            lambda: queue.accounts.gone != gone,
            lambda: queue.changed,
            queue.queued.host,
            lambda: end - asyncio.get_running_loop().time(),
        )
        return True

    # -- groups

    def pump(self) -> None:
        """Deal with the answers that are there, and give the spool the next group; from any thread.

        A signal handler or a finalizer that comes here amid a change of this thread's leaves that to the recorder, which
        its message has woken.
        """
        queue = self._queue
        if queue.is_amid_a_change():
            return
        group = _Group(self._clock.now())
        answered: list[_Answered] = []
        try:
            try:
                self._take_answers(answered)
                messages = self._next_group(group)
                if messages:
                    self._hand_over(group, messages)
            finally:
                # Last: calls that this wakes in another thread make the next group together.
                settle_all(answered)
        except BaseException:
            # The group is handed over again, by the recorder; what the spool has of it is known then.
            if self._group is group:
                self._group = None
            queue.notify()
            raise

    def _next_group(self, group: _Group) -> list[NewMessage]:
        """The messages that the spool is to store next; none if there are none, or it is not their turn."""
        if self._has_to_wait():
            return []
        queue = self._queue
        unstored, appending = queue.unstored, queue.appending
        with queue.lock:
            # No call from here to where the group is set: a signal handler must not begin one of its own. Answers that
            # have come by now are another thread's to deal with: these messages are stored, and the next ones must
            # not get their answers.
            if self._group is not None or self._answers or self._waits_for_record or not (appending or unstored):
                return []
            self._group = group
            if not appending:
                # One call, as in `OpenBatch.take`.
                appending.extend(starmap(unstored.popleft, repeat((), min(_GROUP, len(unstored)))))
            messages = list(map(NewMessage, [one.message_id for one in appending], bodies_of(appending)))
            group.hold = _fitting(messages, *queue.window()) if self._deliver and not self.keeps else 0
            return messages

    def _pump_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """As `pump`, for a call of this loop whose message is queued: at the loop's next turn.

        The calls that an answer has woken queue their next messages in one turn, and these are one group. At once, the
        first of them would be a group of its own, and the others would wait for it.
        """
        # Whatever answers a group gives the spool the next one.
        if self._group is None and self._pumping_loop is not loop:
            loop.call_soon(self._pump_now)
            self._pumping_loop = loop

    def _pump_now(self) -> None:
        self._pumping_loop = None
        self._pump_for_call()

    def _pump_for_call(self) -> None:
        """As `pump`, for a call whose message is queued: if memory runs out, the call does not fail."""
        if self._group is not None:
            return
        try:
            self.pump()
        except MemoryError:
            # The recorder goes on.
            self._queue.notify()

    def _hand_over(self, group: _Group, messages: list[NewMessage]) -> None:
        done = partial(self._answered, group)
        make_room = self._queue.overflow == "drop_oldest"
        try:
            self._spool.append_nowait(messages, done, hold=group.hold, make_room=make_room)
        except Exception as error:
            if not isinstance(error, SpoolUnavailable):
                self._reports.warn("spool", "The spool raised; messages are not stored.\n%s", stack_of(error))
                error = SpoolUnavailable(f"the spool raised {type(error).__qualname__}")
            self._answered(group, error)

    @property
    def is_interrupted(self) -> bool:
        """Something was left undone by an exception: `pump` has to be called."""
        is_idle = self._group is None and not self._waits_for_record and self._not_before is None
        return is_idle and bool(self._answers or self._queue.appending or self._queue.unstored)

    def _answered(self, group: _Group, result: AppendResult | TryLater | SpoolUnavailable) -> None:
        """Called on a thread of the spool's."""
        answered: list[_Answered] = []
        with self._queue.lock:
            if group is not self._group:
                return
            self._not_before = None
            if isinstance(result, TryLater):
                self._postpone(result.seconds, answered)
            elif isinstance(result, SpoolUnavailable):
                self._answers.extend(repeat(result, len(self._queue.appending)))
            else:
                self._dropped.extend(result.dropped)
                self._answers.extend(result.answers)
            self._group = None
        settle_all(answered)
        self.pump()

    # -- a spool that lets messages wait in memory

    def _postpone(self, seconds: float, answered: list[_Answered]) -> None:
        """Calls go on as if their messages were stored: these are accepted, and pending. The lock is held."""
        self._not_before = self._clock.now() + seconds
        self._answer_all((*self._queue.appending, *self._queue.unstored), repeat(_STORED), answered)

    def _has_to_wait(self) -> bool:
        """Whether it is too early to ask the spool again; sees to it that it is asked in time if a loop runs."""
        if self._not_before is None:
            return False
        left = self._not_before - self._clock.now()
        if left <= MOMENT:
            return False
        loop = self._clock.loop
        if loop is not None and loop is not self._timer_loop and not loop.is_closed():
            self._timer_loop = loop
            call_in(loop, self._set_timer, left)
        return True

    def _set_timer(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._ask_again)

    def _ask_again(self) -> None:
        self._timer_loop = None
        self.pump()

    def _take_answers(self, answered: list[_Answered]) -> None:
        """Each message goes where its answer says."""
        answers, queue = self._answers, self._queue
        while answers or self._dropped:
            refused = ready = None
            with queue.lock:
                while len(answers) > len(queue.appending):
                    # Its message was moved when an exception came in between.
                    answers.popleft()
                if answers and not self._take_handed_over(answered):
                    ready = self._take_stored(answered)
                    if ready is None:
                        refused = self._take_one(answered)
                # Last, as they may be of the same group.
                while self._dropped and not answers:
                    self.lose(self._dropped[0])
                    del self._dropped[0]
                queue.room.note_room()
            if refused is not None:
                self._report_dropped(*refused)
            if ready is not None:
                queue.notify_stored(ready)
            elif not answers:
                # Some have their outcome, or share another's.
                queue.queued.moved.notify()
                queue.notify()

    def _take_handed_over(self, answered: list[_Answered]) -> bool:
        """The ordinary case of a shared spool, in few steps: all messages are stored. The lock is held."""
        answers, queue = self._answers, self._queue
        if not self._hands_over or answers.count(_STORED) < len(answers):
            return False
        self._full_since = None
        group = list(queue.appending)
        size = sum(map(len, bodies_of(group)))
        # Before the messages are counted: if an exception comes in between, this is done again. So their bodies stay.
        settle_together(group, queue.queued.host, _HANDED_OVER)
        self._answer_all(group, answers, answered)
        queue.leave(len(group), size, _HANDED_OVER)
        queue.appending.clear()
        answers.clear()
        forget_bodies(group)
        return True

    def _take_stored(self, answered: list[_Answered]) -> int | None:
        """The ordinary case of other spools, in few steps: all messages are stored, and the first ones held. The lock is
        held.

        Returns how many became ready to be sent; `None`: it is not the ordinary case.
        """
        answers, queue = self._answers, self._queue
        stored = [a for a in answers if not isinstance(a, SpoolUnavailable) and a.status == "stored"]
        held = sum(each.held for each in stored)
        is_ordinary = len(stored) == len(answers) and all(each.held for each in stored[:held])
        if not is_ordinary or self._dropped or self.keeps or self._hands_over:
            return None
        self._full_since = None
        group = list(queue.appending)
        stored_as(group, [each.key or 0 for each in stored])
        self.known.update((delivery.message_id, delivery) for delivery in group[held:])
        # Before the messages move: if an exception comes in between, this is done again for the others.
        self._answer_all(group, answers, answered)
        queue.ready.extend(starmap(queue.appending.popleft, repeat((), held)))
        bodies = bodies_of(queue.appending)
        queue.accounts.unload(len(bodies), sum(map(len, bodies)))
        queue.appending.clear()
        answers.clear()
        forget_bodies(group[held:])
        return held

    def _take_one(self, answered: list[_Answered]) -> tuple[Delivery, BatchResult, bytes] | None:
        """The first message goes where its answer says; what is dropped is returned. The lock is held.

        An exception may come at any call. So whatever may be done twice comes first; then, without a call in between, the
        message is counted and leaves.
        """
        queue, answer, delivery = self._queue, self._answers[0], self._queue.appending[0]
        body = bodies_of((delivery,))[0]
        status, key = _read_answer(answer)
        if status == "known" and self._is_ending(key):
            # The first one has ended: this is a new message, as soon as the spool knows that.
            self._waits_for_record = True
            if not queue.unstored or queue.unstored[0] is not delivery:
                queue.unstored.appendleft(delivery)
            del queue.appending[0], self._answers[0]
            return None
        if status == "full":
            self._full_since = self._clock.now() if self._full_since is None else self._full_since
        elif status == "stored":
            self._full_since = None
        was_arriving = self._note_answer(delivery, answer, answered)
        result: BatchResult | None = None
        if status == "stored" and not self._hands_over:
            self._keep(delivery, answer, len(body))
        else:
            result = self._end(delivery, status, key, len(body), was_arriving)
        if was_arriving:
            del self._awaited[delivery]
            queue.accounts.arriving -= 1
        del queue.appending[0], self._answers[0]
        return (delivery, result, body) if result is not None and result.status is Status.DROPPED else None

    def _keep(self, delivery: Delivery, answer: _Answer, size: int) -> None:
        """The message is stored: it is ready to be sent, or on disk only."""
        queue = self._queue
        if not isinstance(answer, SpoolUnavailable) and answer.held and not self.keeps:
            stored_as((delivery,), (answer.key or 0,))
            if not queue.ready or queue.ready[-1] is not delivery:
                queue.ready.append(delivery)
            return
        if self.known.get(delivery.message_id, delivery) is not delivery:
            self._lose_earlier(delivery.message_id)
        self.known[delivery.message_id] = delivery
        forget_bodies((delivery,))
        queue.accounts.unload(1, size)

    def _lose_earlier(self, message_id: str) -> None:
        """An id was stored once more: the message that had it before was dropped, to make room for this one's group."""
        for index, dropped in enumerate(self._dropped):
            if dropped.message_id == message_id:
                self.lose(dropped)
                del self._dropped[index]
                return

    def _end(self, delivery: Delivery, status: str, key: int, size: int, was_arriving: bool) -> BatchResult | None:
        """The message ends here. Returns how it is counted; `None`: it is not accepted after all."""
        queue, result = self._queue, None
        is_known = status == "known"
        if status == "stored" or (is_known and not was_arriving):
            result = _HANDED_OVER
        elif not was_arriving:
            result = BatchResult(Status.DROPPED, "queue_full" if status == "full" else "spool_unavailable")
        if is_known and not (self._hands_over or key in self._elsewhere):
            # Counted or not: its outcome is that of the first one.
            self._share(delivery, key)
        elif result is not None or is_known:
            settle_alone(delivery, queue.queued.host, result or _HANDED_OVER)
        queue.leave(1, size, result)
        return result

    def _note_answer(self, delivery: Delivery, answer: _Answer, answered: list[_Answered]) -> bool:
        """Note that the call of this message gets its answer; whether it waits for it, and is not accepted yet."""
        if delivery not in self._awaited:
            return False
        future = self._awaited[delivery]
        if future is not None:
            answered.append((future, answer))
        return True

    def _answer_all(
        self, deliveries: Iterable[Delivery], answers: Iterable[_Answer], answered: list[_Answered]
    ) -> None:
        """The calls of these messages, if they wait, get their answers: these are accepted, or have their outcomes."""
        awaited, accounts = self._awaited, self._queue.accounts
        for delivery, answer in zip(deliveries, answers, strict=False):
            if delivery in awaited:
                future = awaited[delivery]
                if future is not None:
                    answered.append((future, answer))
                # No call in between.
                del awaited[delivery]
                accounts.arriving -= 1

    def _report_dropped(self, delivery: Delivery, result: BatchResult, body: bytes) -> None:
        """Report a message that was dropped."""
        self._queue.queued.moved.notify()
        self._reports.add(result, partial(_alone, body), len(body), self._clock.loop)
        if result.reason == "spool_unavailable":
            self._reports.warn(
                "spool_unavailable", "The spool cannot store messages; those that cannot wait are dropped."
            )

    def _share(self, delivery: Delivery, key: int) -> None:
        """The message has the id of one that is pending: it ends as that one does. The lock is held."""
        queue = self._queue
        opened = queue.backlog.open
        in_memory = [*queue.ready, *(opened.deliveries if opened is not None else ())]
        first = next((one for one in in_memory if keys_of((one,))[0] == key), self.known.get(delivery.message_id))
        if first is not None and first is not delivery:
            place_all((delivery,), SharedRecord(queue.queued.host, first))
            return
        for batch in (*queue.backlog.waiting, *queue.backlog.in_flight):
            if key in batch.keys:
                place_all((delivery,), batch.record, batch.offset + batch.keys.index(key))
                return
        forget_bodies((delivery,))
        self.known[delivery.message_id] = delivery

    def lose(self, dropped: DroppedMessage) -> None:
        """The spool itself gave a message up; the lock is held."""
        queue, result = self._queue, BatchResult(Status.DROPPED, dropped.reason)
        delivery = self.known.get(dropped.message_id)
        if delivery is not None:
            settle_alone(delivery, queue.queued.host, result)
            self.known.pop(dropped.message_id, None)
            queue.queued.moved.notify()
        if dropped.body:
            self._reports.add(result, partial(_alone, dropped.body), len(dropped.body), self._clock.loop)
        # Last: an exception before this has it done again.
        queue.accounts.lose(len(dropped.body), result)
        queue.read_count += 1

    def note_elsewhere(self, keys: Iterable[int]) -> None:
        """Other processes have these messages now, and those with the same ids."""
        self._elsewhere.extend(keys)

    def recorded(self) -> None:
        """An outcome is recorded: a message with the same id is a new one."""
        self._waits_for_record = False
        self.pump()

    # -- close

    def drop_unstored(self, result: BatchResult) -> int:
        """The client is closing: messages that the spool has not stored are dropped. Returns how many."""
        queue = self._queue
        answered: list[_Answered] = []
        closed = SpoolUnavailable("the client was closed before the spool answered")
        with queue.lock:
            self.keeps, self._group = True, None
            unstored = [*queue.appending, *queue.unstored]
            bodies = bodies_of(unstored)
            queue.appending.clear()
            queue.unstored.clear()
            self._answers.clear()
            self._answer_all(unstored, repeat(closed), answered)
            if unstored:
                queue.leave(len(unstored), sum(map(len, bodies)), result)
        for delivery, body in zip(unstored, bodies, strict=True):
            settle_alone(delivery, queue.queued.host, result)
            self._report_dropped(delivery, result, body)
        settle_all(answered)
        return len(unstored)


def _fitting(messages: list[NewMessage], count: int, size: int) -> int:
    """How many of the messages, from the first on, are no more than `count` and `size` bytes."""
    sizes = accumulate(len(message.body) for message in messages)
    return min(count, sum(map(size.__ge__, sizes)))


def _no_answer(*, maybe_stored: bool) -> SpoolUnavailable:
    return SpoolUnavailable(
        "the spool does not answer: its disk or server is stalled or very slow", maybe_stored=maybe_stored
    )


def _read_answer(answer: _Answer) -> tuple[str, int]:
    """What became of a message, and what the spool calls it."""
    return ("unavailable", 0) if isinstance(answer, SpoolUnavailable) else (answer.status, answer.key or 0)


def _alone(body: bytes) -> tuple[bytes]:
    return (body,)
