"""The way into a spool: messages are stored in groups, and then ready to be sent, or on disk only.

    the queue ─► appending ─► spool.append_nowait ─► answers ─┬─► held: ready to be sent
                                                              └─► on disk only, until it is read

One group is under way at a time, and what comes meanwhile is the next one. It needs no loop, so that a message is
stored although no loop runs. Whatever interrupts a step here (a signal handler that raises, a `MemoryError`) leaves the
message in the queue, in `appending`, or where its answer put it; `is_interrupted` says that `pump` has to go on.

This file knows the spool's protocol and nothing else of it; `spool_calls` has the calls that wait, and `spool_answers`
what the answers mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import accumulate, repeat
from typing import Final

from segment_async._exceptions import QueueFull, SpoolUnavailable, stack_of
from segment_async._lifecycle.waiting import MOMENT, wait_until
from segment_async._outcome import BatchResult
from segment_async.spool._protocol import AppendResult, Intake, NewMessage, TryLater, is_shared

from .admission import Admission
from .clock import LoopClock
from .delivery import Delivery, bodies_of, move, settle_alone
from .queue import Queue
from .reports import Reports
from .spool_answers import STORED, SpoolAnswers
from .spool_calls import Answer, AwaitedCalls, Group
from .spool_share import SpoolShare

# Messages that one append takes.
_GROUP: Final = 500
# Seconds until a spool that was full is asked again, for room that other processes make; doubled each time.
_RETRY_SECONDS: Final = 0.5
_LONGEST_RETRY_SECONDS: Final = 30.0


class SpoolIntake:
    """Attributes:
    answers: what becomes of messages once the spool has answered.
    share: how many messages may be in memory.
    not_before: the spool lets messages wait in memory; when it is asked again.
    """

    def __init__(
        self,
        spool: Intake,
        admission: Admission,
        queue: Queue,
        clock: LoopClock,
        reports: Reports,
        *,
        deliver: bool,
        is_ending: Callable[[int], bool],
    ) -> None:
        self.share = SpoolShare(queue)
        self._spool = spool
        self._admission = admission
        self._queue = queue
        self._clock = clock
        self._reports = reports
        self._deliver = deliver
        # The group under way; an answer to another one, which comes twice or too late, is passed over.
        self._group: Group | None = None
        self.not_before: float | None = None
        # The loop whose next turn gives the spool a group.
        self._pumping_loop: asyncio.AbstractEventLoop | None = None
        self._calls = AwaitedCalls(queue, clock, lambda: self._group or self.answers.waits_for_record)
        hands_over = not deliver or is_shared(spool)
        self.answers = SpoolAnswers(queue, clock, reports, self._calls, hands_over=hands_over, is_ending=is_ending)

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
            if self.not_before is not None:
                taken = await self._admission.put(delivery, size, paced=False)
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
        self._admission.check_open()
        first = self.answers.known.setdefault(delivery.message_id, delivery)
        if first is not delivery:
            if first.outcome is None:
                return first
            self.answers.known[delivery.message_id] = delivery
        taken = False
        try:
            taken = self._admission.put_nowait(delivery, size)
        finally:
            if not taken and self.answers.known.get(delivery.message_id) is delivery:
                # It has no outcome to share, and an exception's traceback may keep it.
                self.answers.known.pop(delivery.message_id, None)
        if not taken:
            return None
        self._pump_for_call()
        return delivery

    async def _answer_to(self, delivery: Delivery, size: int) -> Answer | None:
        """What the spool answers; `None`: the queue has no room."""
        admission, loop = self._admission, asyncio.get_running_loop()
        stored = self._calls.begin(delivery, loop)
        try:
            taken = admission.offer_arriving(delivery, size)
            if not (taken or await admission.put(delivery, size, paced=False, arriving=True)):
                self._calls.awaited.pop(delivery, None)
                return None
            self._pump_soon(loop)
        except BaseException:
            self._calls.leave(delivery)
            # If the message was queued, the recorder goes on with it.
            self._queue.notify()
            raise
        return await self._calls.answer(delivery, stored)

    async def _may_wait_for_room(self, seconds: float) -> bool:
        """Whether a full spool is worth another try; has waited until something was settled then, or for so long."""
        admission, queue = self._admission, self._queue
        if admission.overflow == "raise":
            raise QueueFull("the spool is full: messages come faster than they can be sent")
        if admission.overflow != "wait":
            return False
        limit, since = queue.room.timeout, self.answers.full_since
        if limit is not None and since is not None:
            left = since + limit - self._clock.now()
            if left <= MOMENT:
                return False
            seconds = min(seconds, left)
        gone = queue.accounts.gone
        end = asyncio.get_running_loop().time() + seconds
        await wait_until(
            lambda: admission.closed or queue.accounts.gone != gone,
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
        # Here, as a signal handler may take the loop's turn away: then another one is asked for.
        self._pumping_loop = None
        if queue.is_amid_a_change():
            return
        current = self._group
        if current is not None and current.answer is not None:
            self._answered(current, current.answer)
            return
        group = Group(self._clock.now())
        try:
            self.answers.take()
            messages = self._next_group(group)
            if messages:
                self._hand_over(group, messages)
        except BaseException:
            # The group is handed over again, by the recorder; what the spool has of it is known then.
            if self._group is group and not group.is_handed_over:
                self._group = None
            queue.queued.moved.notify()
            queue.notify()
            raise
        finally:
            # Last: calls that this wakes in another thread make the next group together.
            self._calls.wake()

    def _next_group(self, group: Group) -> list[NewMessage]:
        """The messages that the spool is to store next; none if there are none, or it is not their turn."""
        if self._is_postponed:
            return []
        queue = self._queue
        incoming, appending = queue.incoming, queue.appending
        with queue.lock:
            # No call from here to where the group is set: a signal handler must not begin one of its own. Answers that
            # have come by now are another thread's to deal with: these messages are stored, and the next ones must
            # not get their answers.
            if self._group is not None or self.answers.waiting or self.answers.waits_for_record:
                return []
            if not (appending or incoming):
                return []
            self._group = group
            # The answers to this group take into account what was recorded before it.
            self.answers.recorded.clear()
            if not appending:
                # By their indices: an iterator fails if a finalizer enqueues meanwhile.
                first = [*map(incoming.__getitem__, range(min(_GROUP, len(incoming))))]
                move(first, incoming, appending)
            messages = list(map(NewMessage, [one.message_id for one in appending], bodies_of(appending)))
            group.hold = _fitting(messages, *self.share.to_hold()) if self._deliver and not self.answers.keeps else 0
            return messages

    def _pump_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """As `pump`, for a call of this loop whose message is queued: at the loop's next turn.

        The calls that an answer has woken queue their next messages in one turn, and these are one group. At once, the
        first of them would be a group of its own, and the others would wait for it.
        """
        # Whatever answers a group gives the spool the next one.
        if self._group is None and self._pumping_loop is not loop:
            loop.call_soon(self._pump_for_call)
            self._pumping_loop = loop

    def _pump_for_call(self) -> None:
        """As `pump`, for a call whose message is queued: if memory runs out, the call does not fail."""
        if self._group is not None:
            return
        try:
            self.pump()
        except MemoryError:
            # The recorder goes on.
            self._queue.notify()

    def _hand_over(self, group: Group, messages: list[NewMessage], *, again: bool = False) -> None:
        done = partial(self._answered, group)
        make_room = self._admission.overflow == "drop_oldest"
        try:
            self._spool.append_nowait(messages, done, hold=group.hold, make_room=make_room)
            group.is_handed_over = True
        except SpoolUnavailable as error:
            self._answered(group, error)
        except BaseException as error:
            goes_on = self._group is group and not again
            if goes_on:
                # Perhaps a signal handler raised, and the spool has the messages: it would hold them for ever.
                self._hand_over(group, messages, again=True)
            # A plain function cannot be cancelled: it met a cancelled future of its own.
            if not isinstance(error, (Exception, asyncio.CancelledError)):
                raise
            if not goes_on:
                self._reports.limited_log.warn(
                    "spool", "The spool raised; messages are not stored.\n%s", stack_of(error)
                )
                self._answered(group, SpoolUnavailable(f"the spool raised {type(error).__qualname__}"))

    @property
    def is_interrupted(self) -> bool:
        """Something was left undone by an exception: `pump` has to be called."""
        # Read only once: the spool's thread may end it in between.
        group = self._group
        if group is not None:
            return group.answer is not None
        is_idle = not self.answers.waits_for_record and not self._is_postponed
        is_left = self.answers.waiting or self._queue.appending or self._queue.incoming
        return is_idle and (bool(is_left) or self._calls.is_interrupted)

    def _answered(self, group: Group, result: AppendResult | TryLater | SpoolUnavailable) -> None:
        """Called on a thread of the spool's."""
        try:
            self._note_answer(group, result)
        except BaseException:
            # The recorder goes on with it.
            group.answer = result
            self._queue.notify()
            raise
        self._calls.wake()
        if self.not_before is not None:
            # The recorder has another moment to wait for.
            self._queue.changed.recheck()
        self.pump()

    def _note_answer(self, group: Group, result: AppendResult | TryLater | SpoolUnavailable) -> None:
        # What made room may have been left by earlier processes, and no read has said so yet.
        makes_room = self._deliver and isinstance(result, AppendResult) and result.dropped
        recovered = self._spool.statistics().recovered if makes_room else 0
        with self._queue.lock:
            if group is not self._group:
                return
            self._queue.order.note_recovered(recovered)
            self.not_before = None
            if isinstance(result, TryLater):
                # Calls go on as if their messages were stored: these are accepted, and pending.
                self.not_before = self._clock.now() + result.seconds
                self._calls.note_all((*self._queue.appending, *self._queue.incoming), repeat(STORED))
            else:
                self.answers.bring(result)
            self._group = None

    @property
    def _is_postponed(self) -> bool:
        return self.time_left() is not None

    def time_left(self) -> float | None:
        """Seconds until the spool may be asked again; `None`: now."""
        not_before = self.not_before
        left = 0.0 if not_before is None else not_before - self._clock.now()
        return left if left > MOMENT else None

    def recorded(self) -> None:
        """An outcome is recorded: a message with the same id is a new one."""
        # Not between the look at what is to be recorded and the note that a message waits for it.
        with self._queue.lock:
            self.answers.waits_for_record = None
        self.pump()

    # -- close

    def drop_unstored(self, result: BatchResult) -> int:
        """The client is closing: messages that the spool has not stored are dropped. Returns how many.

        Those that it was not even given, and whose calls still wait, are not accepted: their calls raise. Those that it has,
        and has not answered, may be stored, and delivered by another process.
        """
        queue = self._queue
        why = "the client was closed before the spool answered"
        with queue.lock:
            may_be_stored = (self._group is not None and self._group.is_handed_over) or bool(self.answers.waiting)
            self.answers.keeps, self._group = True, None
            appending = [*queue.appending]
            # If an exception interrupted a move, a message may be in both.
            given = {*appending}
            rest = [one for one in queue.incoming if one not in given]
            refused = [one for one in rest if one in self._calls.awaited]
            unstored = [*appending, *(one for one in rest if one not in self._calls.awaited)]
            bodies = bodies_of(unstored)
            queue.appending.clear()
            queue.incoming.clear()
            self._calls.note_all(appending, repeat(SpoolUnavailable(why, maybe_stored=True)))
            self._calls.note_all(refused, repeat(SpoolUnavailable(why)))
            queue.leave(len(refused), sum(map(len, bodies_of(refused))))
            if unstored:
                queue.leave(len(unstored), sum(map(len, bodies)), result)
        uncertain = len(appending) if may_be_stored else 0
        for index, (delivery, body) in enumerate(zip(unstored, bodies, strict=True)):
            ended = result._replace(possibly_delivered=index < uncertain)
            settle_alone(delivery, queue.queued.host, ended)
            self.answers.report_dropped(delivery, ended, body)
        self._calls.wake()
        return len(unstored)


def _fitting(messages: list[NewMessage], count: int, size: int) -> int:
    """How many of the messages, from the first on, are no more than `count` and `size` bytes."""
    sizes = accumulate(len(message.body) for message in messages)
    return min(count, sum(map(size.__ge__, sizes)))
