"""Runs one measurement at a time: the client under test on one core, the server and everything else on another.

It knows how to run a probe, not what is measured: `parts` has the measurements, `contestants` the clients.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.contestants import Contestant
from benchmarks.environments import ROOT, probe_command
from benchmarks.server.sink import Sink

NICENESS = -15
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""For every child process: without compiled files, an import would take longer than it does for users."""
TIMEOUT = 300
"""Seconds a probe may take."""


class ProbeFailed(Exception):
    """A probe exited with an error or took too long. The text is the end of its standard error."""


class Cores(NamedTuple):
    """Where the client runs, and where everything else does; `None` where there is only one core."""

    client: int | None
    other: int | None


def cores() -> Cores:
    available = sorted(os.sched_getaffinity(0))
    return Cores(available[0], available[1]) if len(available) > 1 else Cores(None, None)


def pin(process_id: int, core: int | None) -> None:
    """Pin a process to a core, and raise its priority there where the system allows that."""
    if core is not None:
        os.sched_setaffinity(process_id, {core})
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process_id, NICENESS)
        # Linux shares a core between sessions first, so each child process here has a session of its own.
        Path(f"/proc/{process_id}/autogroup").write_text(str(NICENESS))


@dataclass
class Bench:
    sink: Sink
    cores: Cores
    loop: str = "asyncio"
    interference: list[float] = field(default_factory=list)
    """For each measurement, the share of the client's core that other processes took."""

    def probe(self, contestant: Contestant, **task: Any) -> dict[str, Any]:
        """Run one probe and return its figures; `disturbed` is the share of its core that other processes took."""
        return self.figures_of(self._command(contestant, task))

    def figures_of(
        self, command: list[str], *, cwd: Path = ROOT, env: Mapping[str, str] = ENVIRONMENT
    ) -> dict[str, Any]:
        """Run a program on the client's core; its figures are the last line it prints, as JSON."""
        with self.watched() as seen, self._running(command, self.cores.client, cwd=cwd, env=env) as process:
            try:
                output, errors = process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                raise ProbeFailed(f"not finished after {TIMEOUT} s") from None
        if process.returncode != 0:
            raise ProbeFailed(errors.strip()[-2000:])
        figures: dict[str, Any] = json.loads(output.splitlines()[-1])
        return figures | seen

    @contextmanager
    def started(self, contestant: Contestant, **task: Any) -> Iterator["subprocess.Popen[str]"]:
        """A running probe, for measurements from outside; it is killed at the end of the block."""
        with self._running(self._command(contestant, task), self.cores.client) as process:
            yield process

    def output_of(self, command: list[str], core: int | None, *, cwd: Path = ROOT) -> str:
        """What a program prints, run on this core."""
        with self._running(command, core, cwd=cwd) as process:
            output, _ = process.communicate(timeout=TIMEOUT)
        return output

    def _command(self, contestant: Contestant, task: dict[str, Any]) -> list[str]:
        task |= {"adapter": contestant.adapter, "url": self.sink.url, "loop": self.loop, "other_core": self.cores.other}
        task["options"] = contestant.options | task.get("options", {})
        return probe_command(contestant, task)

    @contextmanager
    def _running(
        self, command: list[str], core: int | None, *, cwd: Path = ROOT, env: Mapping[str, str] = ENVIRONMENT
    ) -> Iterator["subprocess.Popen[str]"]:
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen(command, cwd=cwd, env=env, text=True, start_new_session=True, **pipes) as process:
            pin(process.pid, core)
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def watched(self) -> Iterator[dict[str, float]]:
        """Fills, at the end of the block, with the share of the client's core that other processes took."""
        seen: dict[str, float] = {}
        start, busy, ours = time.monotonic(), busy_seconds(self.cores.client), children_seconds()
        yield seen
        others = busy_seconds(self.cores.client) - busy - (children_seconds() - ours)
        seen["disturbed"] = max(0.0, others) / (time.monotonic() - start)
        self.interference.append(seen["disturbed"])


def busy_seconds(core: int | None) -> float:
    """CPU time a core has spent on anything since boot; 0 where the system does not report it."""
    if core is None:
        return 0.0
    lines = Path("/proc/stat").read_text().splitlines()
    user, nice, system, _idle, _wait, *interrupts = map(int, lines[core + 1].split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def cpu_seconds(process_id: int) -> float:
    """CPU time that a process has spent; 0 where the system does not report it."""
    try:
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def machine() -> dict[str, str]:
    """The machine and the Python that the figures belong to."""
    model = [line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "cpu": model[0] if model else platform.processor(),
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": f"{platform.python_implementation()} {sys.version.split()[0]}",
    }
