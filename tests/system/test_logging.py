"""An application that enqueues what is logged: the client logs and calls hooks with no lock held, so nothing stands still."""

import asyncio

import pytest

from tests.support.programs import PROGRAMS, running


@pytest.mark.parametrize("meets", ["refused", "redirected", "a_bug", "unreadable"])
def test_a_handler_that_enqueues_while_another_thread_logs(meets: str) -> None:
    async def main() -> None:
        program = (PROGRAMS / "logs_and_enqueues.py", meets)
        async with running(*program, host="http://127.0.0.1:9", PYTHONPATH=".") as application:
            await application.says("done", within=20.0)
            said = await application.end()
            assert said.code == 0, said.err

    asyncio.run(main())
