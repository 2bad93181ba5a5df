"""Reports: on_error is called once for each failure, on the client's loop, and nothing it does reaches the pipeline."""

import asyncio
import gc
import math
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from decimal import Decimal
from itertools import count
from types import FrameType
from typing import Any

import orjson
import pytest

from segment_async import Client, DeliveryError, Response, Status, messages
from segment_async._exceptions import stack_of
from segment_async._outcome import BatchResult
from segment_async._pipeline import async_calls
from segment_async._pipeline import reports as reports_module
from segment_async._pipeline.limited_log import LimitedLog
from segment_async._pipeline.reports import OnError, Reports
from tests.support.scripted_transport import ScriptedTransport
from tests.support.virtual_clock import VirtualClockLoop, run, running_clock

REFUSED = BatchResult(Status.FAILED, "refused", 400, 2, possibly_delivered=True)
FULL = BatchResult(Status.DROPPED, "queue_full")
SECRET = "THE-SECRET"
FILES = (reports_module.__file__, async_calls.__file__)


class TestFailed(BaseException):
    """As what `pytest.fail` raises."""

    __test__ = False


Told = list[tuple[DeliveryError, list[dict[str, Any]]]]


def bodies(*names: str) -> Callable[[], Iterator[bytes]]:
    return lambda: (orjson.dumps({"messageId": name}) for name in names)


def ids(told: Told) -> list[list[str]]:
    return [[message["messageId"] for message in group] for _, group in told]


def nothing() -> None:
    """There is nothing to notify."""


class LoopReports(Reports):
    def add_on(
        self,
        result: BatchResult,
        bodies: Callable[[], Iterable[bytes]],
        size: int,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        if loop is not None and loop is not self._loop:
            self.resume(loop)
        self.add(result, bodies, size)


def reports_to(
    on_error: OnError | None, now: Callable[[], float] = lambda: 0.0, notify: Callable[[], None] = nothing
) -> LoopReports:
    return LoopReports(on_error, LimitedLog(now), now, notify)


def telling(told: Told) -> LoopReports:
    return reports_to(lambda error, group: told.append((error, group)))


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class TestTelling:
    def test_the_error_and_the_messages(self) -> None:
        async def main() -> None:
            told: Told = []
            reports = telling(told)
            reports.add_on(REFUSED, bodies("a", "b"), 10, asyncio.get_running_loop())
            assert not reports.are_made
            assert not told
            await turns()
            assert reports.are_made
            (error, group), outcome = told[0], told[0][0].outcome
            assert [message["messageId"] for message in group] == ["a", "b"]
            assert (outcome.message_id, outcome.reason, outcome.status_code) == ("a", "refused", 400)
            assert (outcome.attempts, outcome.possibly_delivered) == (2, True)
            assert isinstance(error, DeliveryError)

        run(main())

    def test_each_once_and_in_order(self) -> None:
        async def main() -> None:
            told: Told = []
            reports = telling(told)
            for name in "abc":
                reports.add_on(REFUSED, bodies(name), 10, asyncio.get_running_loop())
            await turns()
            reports.add_on(FULL, bodies("d"), 10, asyncio.get_running_loop())
            await turns()
            assert ids(told) == [["a"], ["b"], ["c"], ["d"]]

        run(main())

    def test_without_a_hook_nothing_is_read(self) -> None:
        reports = reports_to(None)
        reports.add_on(REFUSED, lambda: pytest.fail("were read"), 10, None)
        assert reports.are_made

    def test_without_a_loop_they_wait_for_the_next(self) -> None:
        told: Told = []
        reports = telling(told)
        reports.add_on(REFUSED, bodies("a"), 10, None)

        async def main() -> None:
            reports.resume(asyncio.get_running_loop())
            await turns()

        run(main())
        assert ids(told) == [["a"]]

    def test_a_loop_that_is_gone_is_none(self) -> None:
        told: Told = []
        reports = telling(told)
        gone = asyncio.new_event_loop()
        gone.close()
        reports.add_on(REFUSED, bodies("a"), 10, gone)

        async def main() -> None:
            reports.add_on(FULL, bodies("b"), 10, asyncio.get_running_loop())
            await turns()

        run(main())
        assert ids(told) == [["a"], ["b"]]

    def test_the_loop_of_another_thread_may_be_faster_than_the_call(self) -> None:
        class Quick:
            """Runs what it is given before the giver goes on."""

            def call_soon_threadsafe(self, callback: Callable[..., None], *arguments: object, context: object) -> None:
                callback(*arguments)

        told: Told = []
        reports = telling(told)
        for name in "ab":
            reports.add_on(REFUSED, bodies(name), 10, Quick())  # type: ignore[arg-type]
        assert ids(told) == [["a"], ["b"]]

    def test_waits_for_them_are_notified(self) -> None:
        async def main() -> None:
            after: list[bool] = []
            reports = reports_to(lambda *_: None, notify=lambda: after.append(reports.are_made))
            reports.add_on(REFUSED, bodies("a"), 10, asyncio.get_running_loop())
            await turns()
            assert after == [True]

        run(main())

    def test_numbers_that_no_float_holds_come_back_as_they_were(self) -> None:
        async def main() -> None:
            told: Told = []
            reports = telling(told)
            body = b'{"messageId":"a","properties":{"n":1E+400}}'
            reports.add_on(REFUSED, lambda: [body], 10, asyncio.get_running_loop())
            await turns()
            assert told[0][1][0]["properties"]["n"] == Decimal("1E+400")

        run(main())

    def test_what_is_bound_around_the_caller_is_not_for_the_hook(self) -> None:
        variable: ContextVar[str] = ContextVar("variable", default="nothing")

        async def main() -> list[str]:
            seen: list[str] = []
            reports = reports_to(lambda *_: seen.append(variable.get()))
            variable.set("something")
            reports.add_on(REFUSED, bodies("a"), 10, asyncio.get_running_loop())
            await turns()
            return seen

        assert run(main()) == ["nothing"]

    def test_a_slow_hook_takes_one_call_longer_than_a_time_limit(self) -> None:
        async def main() -> int:
            clock, made = running_clock(), 0

            def hook(*_: object) -> None:
                nonlocal made
                made += 1
                clock.advance(0.3)

            reports = reports_to(hook, now=clock.time)
            for name in "abcdefgh":
                reports.add_on(REFUSED, bodies(name), 10, clock)
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 1.0)
            return made

        assert run(main()) == 4

    def test_a_slow_hook_gives_the_loop_its_turn_after_each_call(self) -> None:
        told: Told = []
        clock = [0.0]

        def hook(error: DeliveryError, group: list[dict[str, Any]]) -> None:
            told.append((error, group))
            clock[0] += 0.3

        async def main() -> list[int]:
            reports, made = reports_to(hook, now=lambda: clock[0]), []
            for name in "abc":
                reports.add_on(REFUSED, bodies(name), 10, asyncio.get_running_loop())
            await asyncio.sleep(0.005)
            while not reports.are_made:
                made.append(len(told))
                await asyncio.sleep(0.01)
            made.append(len(told))
            return made

        assert run(main()) == [1, 2, 3]
        assert ids(told) == [["a"], ["b"], ["c"]]

    def test_a_slow_hook_takes_one_call_longer_than_the_end_allows(self, caplog: pytest.LogCaptureFixture) -> None:
        told: Told = []
        clock = [0.0]

        def hook(error: DeliveryError, group: list[dict[str, Any]]) -> None:
            told.append((error, group))
            clock[0] += 0.3

        async def main() -> None:
            reports = reports_to(hook, now=lambda: clock[0])
            for name in "abcdefgh":
                reports.add_on(REFUSED, bodies(name), 10, None)
            reports.make(1.0)
            assert ids(told) == [["a"], ["b"], ["c"], ["d"]]
            assert reports.has_waiting
            reports.skip_rest()
            assert not reports.has_waiting
            reports.resume(asyncio.get_running_loop())
            await turns()

        run(main())
        assert len(told) == 4
        assert caplog.text.count("reports are skipped") == 1

    def test_none_is_made_twice_by_two_that_make_them_at_once(self) -> None:
        """A client may be closed on one loop while the owner's makes the reports; here both are in one thread."""
        told: Told = []

        def hook(error: DeliveryError, group: list[dict[str, Any]]) -> None:
            told.append((error, group))
            reports.make(1.0)

        reports = reports_to(hook)
        for name in "abc":
            reports.add_on(REFUSED, bodies(name), 10, None)
        reports.make(1.0)
        assert reports.are_made
        assert ids(told) == [["a"], ["b"], ["c"]]


class TestHooksGoneWrong:
    @pytest.mark.parametrize("fault", [RuntimeError(SECRET), asyncio.CancelledError(SECRET), TestFailed(SECRET)])
    @pytest.mark.parametrize("is_async", [False, True])
    def test_an_exception_is_logged_without_its_text_and_the_next_report_is_made(
        self, fault: BaseException, caplog: pytest.LogCaptureFixture, *, is_async: bool
    ) -> None:
        told: Told = []

        def hook(error: DeliveryError, group: list[dict[str, Any]]) -> None:
            told.append((error, group))
            raise fault

        async def async_hook(error: DeliveryError, group: list[dict[str, Any]]) -> None:
            hook(error, group)

        async def main() -> None:
            reports = reports_to(async_hook if is_async else hook)
            for name in "ab":
                reports.add_on(REFUSED, bodies(name), 10, asyncio.get_running_loop())
            await turns()
            assert reports.are_made

        run(main())
        assert ids(told) == [["a"], ["b"]]
        # An async hook that was cancelled is no fault. Two of a kind within a minute are one record.
        logged = not (is_async and isinstance(fault, asyncio.CancelledError))
        assert caplog.text.count("on_error raised") == logged
        assert SECRET not in caplog.text

    def test_a_body_that_is_no_json_stops_nothing(self) -> None:
        async def main() -> None:
            told: Told = []
            reports = telling(told)
            reports.add_on(REFUSED, lambda: [b'{"a":garbage}'], 10, asyncio.get_running_loop())
            reports.add_on(REFUSED, bodies("b"), 10, asyncio.get_running_loop())
            await turns()
            assert reports.are_made
            assert ids(told) == [["b"]]

        run(main())

    def test_a_hook_that_causes_further_reports_does_not_hold_the_loop(self) -> None:
        async def main() -> None:
            loop, count = asyncio.get_running_loop(), 0

            def hook(*_: object) -> None:
                nonlocal count
                count += 1
                reports.add_on(FULL, bodies("again"), 10, loop)

            reports = reports_to(hook)
            reports.add_on(FULL, bodies("first"), 10, loop)
            await turns(10)
            assert 5 <= count <= 10

        run(main())

    @pytest.mark.parametrize(
        ("hooks", "took", "expected"),
        [(["0.1", "0.2"], 0.2, ["done", "done"]), (["0.1", "100"], 0.25, ["done", "cancelled"])],
    )
    def test_hooks_that_still_run_at_the_end_are_given_their_time(
        self, hooks: list[str], took: float, expected: list[str]
    ) -> None:
        ends: list[str] = []

        async def hook(_: DeliveryError, group: list[dict[str, Any]]) -> None:
            try:
                await asyncio.sleep(float(group[0]["messageId"]))
                ends.append("done")
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

        async def main() -> float:
            reports = reports_to(hook)
            for seconds in hooks:
                reports.add_on(REFUSED, bodies(seconds), 10, asyncio.get_running_loop())
            await turns()
            await reports.finish(0.25)
            return running_clock().time()

        assert run(main()) == took
        assert ends == expected

    def test_a_report_that_comes_as_the_loop_ends_waits_for_the_next_loop(self) -> None:
        async def hook(error: DeliveryError, group: list[dict[str, Any]]) -> None:
            told.append((error, group))
            await asyncio.sleep(0.1)

        told: Told = []
        reports = reports_to(hook)

        async def first() -> None:
            reports.add_on(REFUSED, bodies("a"), 10, asyncio.get_running_loop())
            reports.stop()
            await reports.finish(0.0)
            await turns()
            assert not told
            assert reports.are_stopped
            assert asyncio.all_tasks() == {asyncio.current_task()}

        async def second() -> None:
            reports.resume(asyncio.get_running_loop())
            assert not reports.are_made
            await turns()
            await reports.finish(1.0)

        run(first())
        run(second())
        assert ids(told) == [["a"]]

    @pytest.mark.parametrize("kind", ["a coroutine", "an awaitable"])
    @pytest.mark.parametrize("ending", ["the loop ends", "all tasks are cancelled"])
    def test_what_is_cancelled_before_its_first_step_is_awaited_again(self, ending: str, kind: str) -> None:
        """As `asyncio.run` does to what was called in the last turn of its loop."""
        calls: list[str] = []
        told: list[str] = []

        class Telling:
            def __init__(self, message_id: str) -> None:
                self.message_id = message_id

            async def tell(self) -> None:
                told.append(self.message_id)

            def __await__(self) -> Generator[Any, None, None]:
                return self.tell().__await__()

        def on_error(error: DeliveryError, group: list[dict[str, Any]]) -> Awaitable[None]:
            calls.append(error.outcome.message_id)
            telling = Telling(error.outcome.message_id)
            return telling.tell() if kind == "a coroutine" else telling

        async def report_at_last() -> None:
            reports.add_on(REFUSED, bodies("a"), 10, asyncio.get_running_loop())
            reports.add_on(REFUSED, bodies("b"), 10, asyncio.get_running_loop())
            if ending == "all tasks are cancelled":
                await asyncio.sleep(0)
                hooks = asyncio.all_tasks() - {asyncio.current_task()}
                assert len(hooks) == 2
                for hook in hooks:
                    hook.cancel()
                await turns(5)

        async def next_loop() -> None:
            reports.resume(asyncio.get_running_loop())
            await turns(5)

        reports = reports_to(on_error)
        asyncio.run(report_at_last())
        asyncio.run(next_loop())
        assert sorted(told) == ["a", "b"]
        assert calls == ["a", "b"]
        assert reports.are_made
        assert not reports.calls.are_there

    @pytest.mark.parametrize("flushes", [True, False])
    def test_what_was_not_awaited_when_its_loop_was_closed_is_awaited_on_the_next(self, flushes: bool) -> None:
        """A drop as the last thing on a loop that ends without `asyncio.run`."""
        told: list[str] = []

        async def on_error(error: DeliveryError, group: list[dict[str, Any]]) -> None:
            told.append(group[0]["event"])

        async def flush_and_close() -> None:
            if flushes:
                assert await asyncio.wait_for(client.flush(), 20) == 0
                assert told == ["E"]
            await client.aclose()
            assert told == ["E"]

        client = Client("KEY", transport=Refusing(), before_send=lambda _: None, on_error=on_error)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(client.track("u", "E"))
        loop.close()
        assert client._owner.has_pending()
        asyncio.run(flush_and_close())

    def test_what_has_ended_on_a_closed_loop_is_contained(self, caplog: pytest.LogCaptureFixture) -> None:
        loop = asyncio.new_event_loop()
        future = loop.create_future()
        future.set_result(None)
        loop.close()

        async def report() -> None:
            reports.add_on(REFUSED, bodies("a"), 10, asyncio.get_running_loop())
            await turns()

        reports = reports_to(lambda *_: future)
        run(report())
        assert reports.are_made
        assert not reports.calls.are_there
        assert "on_error raised" in caplog.text

    def test_a_future_that_another_loop_ends_at_once_keeps_no_place(self) -> None:
        class EndsAtOnce(asyncio.Future[None]):
            """As seen by a thread that is slower than the future's loop."""

            def add_done_callback(self, function: Callable[..., object], *, context: object = None) -> None:
                function(self)

        async def report() -> None:
            future = EndsAtOnce()
            future.set_result(None)
            futures.append(future)
            reports.add_on(REFUSED, bodies("a"), 10, asyncio.get_running_loop())
            await turns()

        futures: list[asyncio.Future[None]] = []
        reports = reports_to(lambda *_: futures[0])
        run(report())
        assert reports.are_made
        assert not reports.calls.are_there

    def test_what_is_skipped_in_the_end_is_not_awaited(self, caplog: pytest.LogCaptureFixture) -> None:
        async def on_error(error: DeliveryError, group: list[dict[str, Any]]) -> None:
            raise AssertionError

        async def report_at_last() -> None:
            reports.add_on(REFUSED, bodies("a"), 10, asyncio.get_running_loop())
            await asyncio.sleep(0)
            reports.stop()
            for hook in asyncio.all_tasks() - {asyncio.current_task()}:
                hook.cancel()

        reports = reports_to(on_error)
        asyncio.run(report_at_last())
        assert reports.has_waiting
        reports.skip_rest()
        gc.collect()
        assert [record.getMessage()[:19] for record in caplog.records] == ["on_error is too slo"]

    def test_one_that_is_cancelled_after_its_first_step_is_not_made_again(self) -> None:
        told: list[str] = []

        async def on_error(error: DeliveryError, group: list[dict[str, Any]]) -> None:
            told.append(error.outcome.message_id)
            await asyncio.sleep(3600)

        async def report() -> None:
            reports.add_on(REFUSED, bodies("a"), 10, asyncio.get_running_loop())
            await turns()
            assert told == ["a"]

        reports = reports_to(on_error)
        asyncio.run(report())
        assert reports.are_made
        assert not reports.calls.are_there

    def test_a_future_that_a_hook_returned_is_not_asked_for_again(self) -> None:
        calls: list[str] = []

        def on_error(error: DeliveryError, group: list[dict[str, Any]]) -> Any:
            calls.append(error.outcome.message_id)
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            return future

        async def report() -> None:
            reports.add_on(REFUSED, bodies("a"), 10, asyncio.get_running_loop())
            await turns(5)

        reports = reports_to(on_error)
        asyncio.run(report())
        assert calls == ["a"]
        assert reports.are_made

    def test_a_flush_of_another_thread_learns_that_no_more_are_made(self) -> None:
        async def main() -> None:
            seen: list[bool] = []
            reports = reports_to(lambda *_: None, notify=lambda: seen.append(reports.are_stopped))
            reports.add_on(REFUSED, bodies("a"), 10, asyncio.get_running_loop())
            assert not reports.are_stopped
            reports.stop()
            await reports.finish(0.0)
            assert seen == [True]

        run(main())

    def test_a_hook_that_ends_the_program_leaves_no_wait_behind(self) -> None:
        def end(*_: object) -> None:
            raise SystemExit

        async def main() -> None:
            seen: list[bool] = []
            reports = reports_to(end, notify=lambda: seen.append(reports.are_made))
            reports.add_on(REFUSED, bodies("a"), 10, None)
            with pytest.raises(SystemExit):
                reports.make(1.0)
            assert seen == [True]

        run(main())

    def test_a_hook_that_does_not_manage_to_end_the_program_gets_the_next_reports(self) -> None:
        told: Told = []

        def end(error: DeliveryError, group: list[dict[str, Any]]) -> None:
            told.append((error, group))
            if len(told) == 1:
                raise SystemExit

        async def main() -> None:
            reports = reports_to(end)
            for name in "abc":
                reports.add_on(REFUSED, bodies(name), 10, asyncio.get_running_loop())
            with pytest.raises(SystemExit):
                reports.make(1.0)
            assert not reports.are_made
            await turns()
            assert reports.are_made

        run(main())
        assert ids(told) == [["a"], ["b"], ["c"]]

    def test_hooks_that_are_cancelled_at_the_end_make_no_place_for_others(self) -> None:
        async def main() -> None:
            loop, began = asyncio.get_running_loop(), 0

            async def hook(*_: object) -> None:
                nonlocal began
                began += 1
                await asyncio.sleep(1_000)

            reports = reports_to(hook)
            for number in range(150):
                reports.add_on(REFUSED, bodies(str(number)), 10, loop)
            await turns()
            reports.stop()
            await reports.finish(0.25)
            await turns()
            assert began == 100
            assert asyncio.all_tasks() == {asyncio.current_task()}

        run(main())

    def test_hooks_that_end_in_time_leave_their_places_to_others(self) -> None:
        async def main() -> int:
            loop, ended = asyncio.get_running_loop(), 0

            async def hook(*_: object) -> None:
                nonlocal ended
                await asyncio.sleep(0.02)
                ended += 1

            reports = reports_to(hook)
            for number in range(350):
                reports.add_on(REFUSED, bodies(str(number)), 10, loop)
            reports.stop()
            reports.make(1.0)
            await reports.finish(0.25)
            return ended

        assert run(main()) == 350

    def test_calls_on_a_loop_that_does_not_run_keep_no_place(self) -> None:
        async def hook(*_: object) -> None:
            await asyncio.sleep(1_000)

        async def main() -> None:
            for number in range(150):
                reports.add_on(REFUSED, bodies(str(number)), 10, asyncio.get_running_loop())
            await turns()
            assert reports.calls.is_busy

        reports = reports_to(hook)
        with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
            runner.run(main())
            assert not reports.calls.is_busy

    def test_nothing_to_wait_for_takes_no_time(self) -> None:
        async def main() -> float:
            await telling([]).finish(5)
            return running_clock().time()

        assert run(main()) == 0


class Interrupted(Exception):
    pass


def test_a_signal_handler_that_raises_amid_a_report_leaves_the_rest_to_be_made() -> None:
    """At each line of each function, from the first call of `on_error` on."""
    before = sys.gettrace()
    for moment in count():
        told: Told = []
        lines = 0

        def step(frame: FrameType, event: str, _: object, moment: int = moment) -> Any:
            nonlocal lines
            if event == "line" and frame.f_code.co_filename in FILES:
                lines += 1
                if lines == moment + 1:
                    raise Interrupted
            return step

        async def main(told: Told = told, step: Any = step) -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda *_: None)

            def hook(error: DeliveryError, group: list[dict[str, Any]]) -> None:
                told.append((error, group))
                running_clock().advance(0.02)
                if len(told) == 1:
                    sys.settrace(step)

            reports = reports_to(hook, now=loop.time)
            for name in "abcd":
                reports.add_on(REFUSED, bodies(name), 10, loop)
            await asyncio.sleep(1)
            sys.settrace(before)
            assert not reports.has_waiting

        try:
            run(main())
        finally:
            sys.settrace(before)
        # The one that was interrupted is not repeated.
        assert len(told) >= 3
        if lines <= moment:
            break
    assert moment > 10


def test_a_close_waits_for_places_within_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_calls, "_MAX_RUNNING_BYTES", 1)
    told: list[str] = []

    async def on_error(_: DeliveryError, group: list[dict[str, Any]]) -> None:
        told.extend(message["messageId"] for message in group)
        await asyncio.sleep(1)

    async def main() -> None:
        client = Client(
            "key", transport=ScriptedTransport(lambda _: Response(401)), on_error=on_error, flush_at=1, close_timeout=10
        )
        for number in range(5):
            await client.track("user", "Event", message_id=str(number))
            # It does not wait for a place.
            await client.flush()
        assert len(told) == 1
        await client.aclose()

    run(main())
    assert sorted(told) == list("01234")


class TestBounds:
    """What waits for a hook that is slow, or for a loop, is bounded; beyond that the oldest are skipped."""

    @staticmethod
    def waiting(count: int, size: int) -> tuple[list[str], list[str]]:
        """The ids of reports that were added without a loop, and of those that were made later."""
        told: Told = []
        reports = telling(told)
        names = [str(number) for number in range(count)]
        for name in names:
            reports.add_on(REFUSED, bodies(name), size, None)

        async def main() -> None:
            reports.resume(asyncio.get_running_loop())
            await turns()

        run(main())
        return names, [group[0] for group in ids(told)]

    def test_in_count(self, caplog: pytest.LogCaptureFixture) -> None:
        names, made = self.waiting(10_007, 1)
        assert made == names[7:]
        assert caplog.text.count("reports are skipped") == 1

    def test_in_bytes(self, caplog: pytest.LogCaptureFixture) -> None:
        names, made = self.waiting(20, 2**20)
        assert made == names[12:]
        assert caplog.text.count("reports are skipped") == 1

    def test_one_that_is_larger_than_all_of_it_is_made(self) -> None:
        _, made = self.waiting(1, 17 * 2**20)
        assert made == ["0"]

    def test_what_was_made_takes_no_room(self, caplog: pytest.LogCaptureFixture) -> None:
        async def main() -> None:
            told: Told = []
            reports = telling(told)
            for _ in range(10):
                for name in "abc":
                    reports.add_on(REFUSED, bodies(name), 2 * 2**20, asyncio.get_running_loop())
                await turns()
            assert len(told) == 30

        run(main())
        assert not caplog.records

    def test_hooks_that_run_are_bounded_in_bytes_too(self) -> None:
        async def main() -> list[str]:
            began: list[str] = []
            may_end = asyncio.Event()

            async def hook(_: DeliveryError, group: list[dict[str, Any]]) -> None:
                began.append(group[0]["messageId"])
                await may_end.wait()

            reports = reports_to(hook)
            for number in range(7):
                reports.add_on(REFUSED, bodies(str(number)), 2 * 2**20, asyncio.get_running_loop())
                await turns()
            assert began == ["0", "1", "2", "3"]
            # A flush without a limit does not wait for them.
            assert reports.calls.is_busy
            may_end.set()
            await turns(5)
            return began

        assert run(main()) == [str(number) for number in range(7)]

    def test_a_hundred_hooks_run_at_once_and_the_rest_follow(self) -> None:
        async def main() -> None:
            running, most, ended = 0, 0, 0

            async def hook(*_: object) -> None:
                nonlocal running, most, ended
                running += 1
                most = max(most, running)
                await asyncio.sleep(1)
                running -= 1
                ended += 1

            reports = reports_to(hook)
            for number in range(250):
                reports.add_on(REFUSED, bodies(str(number)), 10, asyncio.get_running_loop())
            await turns()
            # A flush without a limit does not wait for hooks that do not end.
            assert reports.calls.is_busy
            assert running == 100
            await asyncio.sleep(10)
            assert (most, ended) == (100, 250)
            assert running_clock().time() == 10

        run(main())


@pytest.mark.parametrize("timeout", [None, math.inf])
def test_a_flush_without_a_limit_does_not_wait_for_calls_that_never_end(timeout: float | None) -> None:
    async def main() -> None:
        async def wait_for_ever(*_: object) -> None:
            await asyncio.Event().wait()

        client = Client("KEY", transport=Refusing(), flush_interval=0, close_timeout=1, on_error=wait_for_ever)
        for _ in range(101):
            # Each fails in a request of its own, and a hundred calls may run at once.
            await (await client.track("u", "E"))
        assert await asyncio.wait_for(client.flush(timeout=timeout), 60) == 0
        await client.aclose()

    run(main())


class Refusing:
    """A transport whose server refuses everything."""

    async def send(self, body: bytes, headers: object) -> Response:
        return Response(400)

    async def aclose(self) -> None:
        """Nothing is held."""


class TestStack:
    def test_a_stack_has_neither_text_nor_locals(self) -> None:
        def fail(value: str) -> None:
            raise RuntimeError(value)

        with pytest.raises(RuntimeError) as caught:
            fail(SECRET + "")
        stack = stack_of(caught.value)
        assert "in fail" in stack
        assert stack.endswith("RuntimeError")
        assert "THE-SECRET" not in stack


class Full:
    """A transport that never answers, so that the queue fills up."""

    async def send(self, body: bytes, headers: object) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def aclose(self) -> None:
        """Nothing is held."""


def test_a_hook_that_reports_by_way_of_the_full_client_does_not_hold_the_loop() -> None:
    async def main() -> None:
        count = 0

        def tell(error: DeliveryError, group: list[dict[str, Any]]) -> None:
            nonlocal count
            count += 1
            client.enqueue_nowait(messages.track("u", "Analytics Lost"))

        client = Client(
            "key", transport=Full(), max_queue_size=1, overflow="drop_newest", on_error=tell, close_timeout=0
        )
        await client.track("u", "Event")
        await client.track("u", "Event")
        await asyncio.sleep(0)
        await turns(20)
        assert 0 < count < 30
        await client.aclose()

    run(main())
