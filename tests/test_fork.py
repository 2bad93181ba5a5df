"""Forked processes: the parent keeps and sends its own, the child starts with nothing; all arrive exactly once."""

import asyncio
from collections import Counter

import pytest

from tests.support.fault_server import FaultServer
from tests.support.programs import PROGRAMS, Ended, finished

FORKS = PROGRAMS / "forks.py"


def forked(how: str) -> tuple[Counter[str], Ended]:
    """Whose messages came, and how often."""

    async def main() -> tuple[Counter[str], Ended]:
        async with FaultServer() as server:
            said = await finished(FORKS, how, host=server.url)
            assert said.code == 0, said.err
            assert "segment_async:" not in said.err, said.err
            assert all(len(times) == 1 for times in server.taken.values())
            return Counter(message["userId"] for (message,) in server.taken.values()), said

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("how", "parents"),
    [
        ("before_the_first_call", 1),
        ("after_a_call", 2),
        ("with_a_thousand_queued", 1_000),
        ("by_a_child_that_flushes", 1_000),
        ("with_a_request_in_flight", 2),
        ("with_kept_connections", 2),
        ("from_a_thread", 2),
        ("without_hooks", 10),
    ],
)
def test_os_fork(how: str, parents: int) -> None:
    arrived, _ = forked(how)
    assert arrived == {"parent": parents, "child": 1}


def test_os_fork_while_other_threads_hold_locks() -> None:
    arrived, said = forked("while_other_threads_call")
    assert arrived == {"parent": int(said.out.split()[1]), "child": 20}


@pytest.mark.parametrize(
    "how",
    [
        "multiprocessing_fork",
        "multiprocessing_fork_with_a_loop",
        "multiprocessing_spawn",
        "multiprocessing_forkserver",
        "in_a_pool",
    ],
)
def test_multiprocessing(how: str) -> None:
    arrived, _ = forked(how)
    assert arrived == {"parent": 10, "child": 1}
