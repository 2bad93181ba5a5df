"""One measurement after the other: starts probes on their core, has the sink on the other, sees who disturbs.

It knows how to measure, not what for: the parts are in `parts`, the contestants in `contestants`.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.contestants import Contestant
from benchmarks.environments import ROOT, probe_command
from benchmarks.server.sink import Sink

PRECEDENCE = -15
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""Of everything started here: without its compiled files an import would be measured that nobody has twice."""
PATIENCE = 300
"""Seconds after which a probe is given up."""


class Failed(Exception):
    """A probe did not come to its end; says what it complained of."""


class Cores(NamedTuple):
    """Where the contestant runs, and where everything else does; `None` where there is only one core."""

    near: int | None
    far: int | None


def cores() -> Cores:
    here = sorted(os.sched_getaffinity(0))
    return Cores(here[0], here[1]) if len(here) > 1 else Cores(None, None)


def place(process_id: int, core: int | None) -> None:
    """Give a process its core, and precedence there where the system allows it: others disturb less."""
    if core is not None:
        os.sched_setaffinity(process_id, {core})
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process_id, PRECEDENCE)
        # Linux weighs whole sessions against each other first: hence each process here has one of its own.
        Path(f"/proc/{process_id}/autogroup").write_text(str(PRECEDENCE))


@dataclass
class Bench:
    sink: Sink
    cores: Cores

    def probe(self, contestant: Contestant, **task: Any) -> dict[str, Any]:
        """Run one probe to its end and return its figures; `disturbed` is the part of its core others took."""
        with self.watched() as seen, self.started(contestant, **task) as process:
            try:
                said, complaint = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                raise Failed(f"not done after {PATIENCE} s") from None
        if process.returncode != 0:
            raise Failed(complaint.strip()[-2000:])
        figures: dict[str, Any] = json.loads(said.splitlines()[-1])
        return figures | seen

    @contextmanager
    def started(self, contestant: Contestant, **task: Any) -> Iterator["subprocess.Popen[str]"]:
        task |= {"adapter": contestant.adapter, "url": self.sink.url, "far_core": self.cores.far}
        task["options"] = contestant.options | task.get("options", {})
        command = probe_command(contestant, task)
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT, text=True, start_new_session=True, **pipes
        ) as process:
            place(process.pid, self.cores.near)
            try:
                yield process
            finally:
                process.kill()

    def said_by(self, command: list[str], core: int | None, **options: Any) -> str:
        """What a program of the measurement prints, run on this core."""
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True, start_new_session=True, **options
        ) as process:
            place(process.pid, core)
            said, _ = process.communicate(timeout=PATIENCE)
        return str(said)

    @contextmanager
    def watched(self) -> Iterator[dict[str, float]]:
        """Fills, at the end of the block, with how far others disturbed the contestant's core."""
        seen: dict[str, float] = {}
        start, busy, ours = time.monotonic(), busy_seconds(self.cores.near), children_seconds()
        yield seen
        others = busy_seconds(self.cores.near) - busy - (children_seconds() - ours)
        seen["disturbed"] = max(0.0, others) / (time.monotonic() - start)


def busy_seconds(core: int | None) -> float:
    """CPU time a core has spent on anything since boot; 0 where the system does not say."""
    if core is None:
        return 0.0
    lines = Path("/proc/stat").read_text().splitlines()
    user, nice, system, _idle, _wait, *interrupts = map(int, lines[core + 1].split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    model = [line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "cpu": model[0] if model else platform.processor(),
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": f"{platform.python_implementation()} {sys.version.split()[0]}",
    }
