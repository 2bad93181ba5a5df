"""The display: an animation of the day on a terminal, plain lines elsewhere, and tables at the end.

Each frame shows the client's current statistics. This file neither sends messages nor checks the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from rich.box import ROUNDED
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from segment_async import Client, Statistics

from .endpoint import EndpointProcess

CALLS = ("track", "identify", "page", "screen", "group", "alias")
SLOTS = 72  # of twenty minutes each
ROWS = 4
EIGHTHS = " ▁▂▃▄▅▆▇█"
PLAIN_HOURS = ("00", "06", "12", "18")


class Show:
    """Shows the progress within a `with` block. `timestamps` are those of the day, in order."""

    def __init__(self, client: Client, endpoint: EndpointProcess, timestamps: Sequence[str]) -> None:
        self._console = Console(highlight=False)
        self._client, self._endpoint, self._total = client, endpoint, len(timestamps)
        self._skyline = _skyline(timestamps)
        self._now = timestamps[0]
        self._live = Live(get_renderable=self._frame, console=self._console, refresh_per_second=15)
        self.animated = self._console.is_terminal and not self._console.is_dumb_terminal

    def __enter__(self) -> Self:
        if self.animated:
            self._live.start()
        else:
            self.say(f"Sending {self._total:,} messages to {self._endpoint.url}")
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def say(self, text: str, style: str = "") -> None:
        """Print a line; on a terminal, above the animation."""
        self._console.print(text, style=style, soft_wrap=True)

    def result(self, summary: Summary) -> None:
        self._console.print(summary.tables())

    def tick(self, timestamp: str) -> None:
        """Advance the shop's clock to this message."""
        if not self.animated and timestamp[11:13] != self._now[11:13] and timestamp[11:13] in PLAIN_HOURS:
            counts = self._client.statistics()
            self.say(f"{_clock(timestamp)}  {counts.accepted:,} accepted, {counts.delivered:,} delivered")
        self._now = timestamp

    def _frame(self) -> Group:
        counts, now = self._client.statistics(), _slot(self._now)
        return Group(
            Text.assemble(("A day at Kestrel & Pine", "bold"), f"  to  {self._endpoint.url}\n"),
            *(
                Text.assemble((row[: now + 1], "cyan"), (row[now + 1 :], "bright_black"), no_wrap=True)
                for row in self._skyline
            ),
            Text(f"{_clock(self._now):>{max(now + 1, 5)}}\n", style="bold"),
            self._bars(counts),
            Text.assemble(
                f"\n{counts.pending:,} pending   {counts.requests:,} requests   {counts.retries:,} retries   endpoint ",
                ("up", "green") if self._endpoint.up else ("down", "bold red"),
            ),
        )

    def _bars(self, counts: Statistics) -> Table:
        bars = Table.grid(padding=(0, 2))
        for name, count, style in (("accepted", counts.accepted, "cyan"), ("delivered", counts.delivered, "green")):
            bar = ProgressBar(self._total, count, width=SLOTS - 19, complete_style=style, finished_style=style)
            bars.add_row(name, bar, f"{count:6,}")
        return bars


@dataclass(frozen=True)
class Summary:
    """The content of the tables.

    `accepted` and `received` count messages by call; `elapsed` is the number of seconds from the first call to the last
    response, `one_call` the median duration of a call.
    """

    accepted: Counter[str]
    received: Counter[str]
    statistics: Statistics
    batches: int
    json_bytes: int
    wire_bytes: int
    elapsed: float
    one_call: float

    def tables(self) -> Table:
        side_by_side = Table.grid(padding=(1, 3))
        side_by_side.add_row(self._calls(), self._figures())
        return side_by_side

    def _calls(self) -> Table:
        table = Table(show_footer=True, box=ROUNDED)
        table.add_column("call", "all")
        for title, counts in (("accepted", self.accepted), ("received", self.received)):
            table.add_column(title, f"{counts.total():,}", justify="right")
        for call in CALLS:
            table.add_row(call, f"{self.accepted[call]:,}", f"{self.received[call]:,}")
        return table

    def _figures(self) -> Table:
        table = Table("", "", show_header=False, box=ROUNDED)
        ratio = self.json_bytes / max(self.wire_bytes, 1)
        table.add_row("batches", f"{self.batches:,}")
        table.add_row("bytes before gzip", f"{self.json_bytes:,}")
        table.add_row("bytes after gzip", f"{self.wire_bytes:,} (1 to {ratio:.1f})")
        table.add_row("retries", f"{self.statistics.retries:,}")
        table.add_row("failed, dropped", f"{self.statistics.failed:,}, {self.statistics.dropped:,}")
        table.add_row("time", f"{self.elapsed:.2f} s")
        table.add_row("a call takes", f"{self.one_call * 1e6:.1f} µs")
        return table


def _clock(timestamp: str) -> str:
    return timestamp[11:16]


def _slot(timestamp: str) -> int:
    return int(timestamp[11:13]) * 3 + int(timestamp[14:16]) // 20


def _skyline(timestamps: Sequence[str]) -> list[str]:
    """A bar chart of the day's messages, one column per slot, top row first."""
    counts = Counter(map(_slot, timestamps))
    unit = max(counts.values()) / (ROWS * 8)
    heights = [round(counts[slot] / unit) for slot in range(SLOTS)]
    return ["".join(EIGHTHS[min(max(height - row * 8, 0), 8)] for height in heights) for row in reversed(range(ROWS))]
