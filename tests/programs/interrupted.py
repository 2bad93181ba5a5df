"""Ctrl-C at one place after the other: for each, a child of its own tracks, is interrupted, and ends unclosed.

Arguments: how the loop is run, what the requests meet, how many places of all, a folder. Prints a line of JSON for each child:
the place, the ids whose calls returned, those that arrived, what it said on stderr, and how long its end took.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from segment_async import Client, Response
from tests.support.interruptions import Points
from tests.support.simulated_segment import Arrival

PARTS = ("_pipeline", "_lifecycle", "_client.py")
AT_ONCE = 6
LONGEST = 20.0
OK = Response(200, {"Content-Type": "application/json"}, b'{"success":true}')


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Network:
    def __init__(self, answers: bool) -> None:
        self._answers = answers

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        if not self._answers:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        for message_id in Arrival.read(body, headers).ids:
            say("taken", message_id)
        return OK

    async def aclose(self) -> None:
        pass


async def track_some(client: Client) -> None:
    for number in range(20):
        await client.track("user-1", "Counted", message_id=f"m{number}")
        say("accepted", f"m{number}")
        await asyncio.sleep(0)
    await client.flush(timeout=0.2)


def interrupt() -> None:
    say("interrupted", time.monotonic())
    raise KeyboardInterrupt


def live(how: str, meets: str, at: int | None) -> None:
    client = Client("KEY", transport=Network(meets == "answers"), flush_at=5, flush_interval=0.01)
    points = Points(*PARTS, act=interrupt, at=at)
    loop = asyncio.new_event_loop()
    try:
        with points:
            if how == "run":
                asyncio.run(track_some(client))
            else:
                loop.run_until_complete(track_some(client))
    except KeyboardInterrupt:
        say("where", points.where)
    except RuntimeError as error:
        # asyncio's own, with or without this package: if the main task ended in the turn that was interrupted, its end
        # stops the loop's next run, in which the tasks that are left are cancelled.
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        say("where", points.where)
    say("count", points.count)


def fork(folder: Path, at: int | None) -> int:
    child = os.fork()
    if child == 0:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{at}.{name}", os.O_WRONLY | os.O_CREAT), number)
        # A child that stands still is killed.
        signal.alarm(int(LONGEST))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        live(*sys.argv[1:3], at)
        sys.exit()
    return child


def report(folder: Path, at: int | None, code: int, ended: float) -> dict[str, object]:
    lines = [line.split(" ", 1) for line in (folder / f"{at}.out").read_text().splitlines()]
    said: dict[str, list[str]] = {}
    for word, value in lines:
        said.setdefault(word, []).append(value)
    return {
        "at": at,
        "where": " ".join(said.get("where", ["?"])),
        "count": int(said.get("count", ["0"])[0]),
        "accepted": said.get("accepted", []),
        "taken": said.get("taken", []),
        "err": (folder / f"{at}.err").read_text(),
        "code": code,
        "seconds": ended - float(said["interrupted"][0]) if "interrupted" in said else 0.0,
    }


def main(folder: Path) -> None:
    os.waitpid(fork(folder, None), 0)
    count = int(str(report(folder, None, 0, 0.0)["count"]))
    # The largest odd step that still gives as many places as asked: an odd one meets each line of a loop's body.
    step = max(1, count // int(sys.argv[3]))
    places = list(range(0, count, step - 1 + step % 2))
    running: dict[int, int] = {}
    while places or running:
        while places and len(running) < AT_ONCE:
            at = places.pop(0)
            running[fork(folder, at)] = at
        child, code = os.wait()
        at = running.pop(child)
        say(json.dumps(report(folder, at, os.waitstatus_to_exitcode(code), time.monotonic())))


if __name__ == "__main__":
    main(Path(sys.argv[4]))
