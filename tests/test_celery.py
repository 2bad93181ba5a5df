"""Celery in real workers: identity travels with a task, and what tasks tracked is received, once each."""

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.fault_server import FaultServer
from tests.support.programs import finished, running

pytest.importorskip("celery")

from celery import signals

import segment_async
from segment_async import blocking, compat
from segment_async.celery import connect
from segment_async.testing import RecordingTransport

TASKS = 30


@pytest.mark.parametrize("kind", [segment_async.Client, compat.Client])
def test_a_client_of_another_kind_is_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"connect needs .*: from segment_async.blocking import Client$"):
        connect(kind("KEY", send=False))


@pytest.mark.parametrize("seconds", [-1, float("nan"), "2"])
def test_the_time_of_a_flush_is_seconds(seconds: Any) -> None:
    with pytest.raises(ValueError, match="flush_after_task must be a number of seconds, 0 or more"):
        connect(blocking.Client("KEY", send=False), flush_after_task=seconds)


def test_a_client_that_is_made_at_its_first_use_is_not_made_for_connect() -> None:
    class Lazy:
        """As Django's `SimpleLazyObject`: its class is that of the object behind it."""

        def _made(self) -> type:
            raise AssertionError("made")

        __class__ = property(_made)  # type: ignore[assignment]

    with disconnected_afterwards():
        connect(Lazy())  # type: ignore[arg-type]


@contextmanager
def disconnected_afterwards() -> Iterator[None]:
    """Undoes what `connect` did with the signals of this process."""
    yield
    for name in ("before_task_publish", "task_prerun", "task_postrun", "worker_process_shutdown", "worker_shutdown"):
        assert getattr(signals, name).disconnect(dispatch_uid="segment_async.connect")


class Run:
    """A task's run, as Celery signals it."""

    def __init__(self, task_id: str, user_id: str | None) -> None:
        self._id = task_id
        self._task = SimpleNamespace(request=SimpleNamespace(segment=user_id and {"user_id": user_id}))

    def __enter__(self) -> None:
        signals.task_prerun.send(sender=self, task_id=self._id, task=self._task)

    def __exit__(self, *_: object) -> None:
        signals.task_postrun.send(sender=self, task_id=self._id, task=self._task)


def tracked_by() -> tuple[blocking.Client, list[str]]:
    """A client, and the user ids of its messages."""
    users: list[str] = []

    def note(message: dict[str, Any]) -> dict[str, Any]:
        users.append(message["userId"])
        return message

    return blocking.Client("KEY", transport=RecordingTransport(), before_send=note), users


def test_a_task_that_runs_twice_at_once_leaves_its_identity_to_none_after_it() -> None:
    client, users = tracked_by()
    begun, ended = threading.Event(), threading.Event()

    def first() -> None:
        with Run("1", "alice"):
            begun.set()
            assert ended.wait(10)
        with Run("2", None):
            client.track(event="Made By The Next Task")

    def second() -> None:
        assert begun.wait(10)
        with Run("1", "alice"):
            client.track(event="Made By The Task")
        ended.set()

    with disconnected_afterwards(), client:
        connect(client)
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(first), pool.submit(second)]:
                done.result(20)
    assert users == ["alice"]
    assert client.statistics().reasons["no_identity"] == 1


def test_a_task_has_its_identity_after_a_retry_that_ran_within_it() -> None:
    client, users = tracked_by()
    with disconnected_afterwards(), client:
        connect(client)
        with Run("1", "alice"):
            with Run("1", "alice"):
                pass
            client.track(event="Made By The Task")
        with pytest.raises(segment_async.MessageError):
            client.track(event="Made After The Task")
    assert users == ["alice"]


def worked(folder: Path, pool: str, connect: str, *, user: str, until: str = "") -> FaultServer:
    """What came of a worker that had so many tasks, and then SIGTERM."""

    async def main() -> FaultServer:
        environment = {"CELERY_FOLDER": str(folder), "CONNECT": connect}
        async with FaultServer() as server:
            sent = await finished("-m", "tests.programs.celery_shop", str(TASKS), host=server.url, **environment)
            assert sent.code == 0, sent.err
            worker = ("-m", "celery", "-A", "tests.programs.celery_shop", "worker", "-P", pool, "-c", "2", "-l", "INFO")
            async with running(*worker, host=server.url, together=True, **environment) as program:
                done = 0
                while done < TASKS + (connect != "no"):
                    await program.says("succeeded")
                    done += 1
                if until:
                    await server.wait_for_requests(1)
                program.signal(signal.SIGTERM)
                said = await program.end()
                assert "Traceback" not in said.out, said.out
            return server

    server = asyncio.run(main())
    assert all(len(times) == 1 for times in server.taken.values())
    assert Counter(message["userId"] for (message,) in server.taken.values()) == {user: TASKS}
    return server


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_a_tasks_calls_have_the_senders_identity_and_a_warm_shutdown_sends_them(pool: str, tmp_path: Path) -> None:
    # The task that was sent without an identity is dropped, and counted.
    server = worked(tmp_path, pool, "", user="user-1")
    numbers = sorted(message["properties"]["n"] for (message,) in server.taken.values())
    assert numbers == list(range(TASKS))


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_a_shutdown_sends_what_was_tracked_without_connect_as_well(pool: str, tmp_path: Path) -> None:
    worked(tmp_path, pool, "no", user="task")


def test_a_task_may_wait_until_its_messages_are_sent(tmp_path: Path) -> None:
    server = worked(tmp_path, "prefork", "5", user="user-1", until="sent")
    assert len(server.requests) >= TASKS
