"""The progress of an import, on stderr: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import IO, Any, Final, cast

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from segment_async.importing import Progress

_LINE_SECONDS: Final = 10


def say(text: str) -> None:
    """One line on standard error."""
    say_lines(harmless(text))


def say_lines(text: str) -> None:
    """On standard error. What reads it may have ended, which is no reason to stop an import, or for another exit code."""
    try:
        click.echo(text, err=True)
    except OSError:
        _discard(sys.stderr)


@contextmanager
def shown() -> Generator[None, None, None]:
    """For a summary on standard output: the exit code says what became of the records even if it cannot be written."""
    try:
        yield
    except OSError as error:
        _discard(sys.stdout)
        # `head` has enough.
        if not isinstance(error, BrokenPipeError):
            say(f"The summary cannot be written: {error.strerror or error}")


def _discard(stream: IO[str]) -> None:
    """The rest of the output goes nowhere: at the exit, what cannot be written would change the exit code."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


class _Terminal:
    """Standard error, which goes on taking text when the terminal is gone."""

    def __init__(self) -> None:
        self._stream = sys.stderr

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            _discard(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            _discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def progress_shown(quiet: bool) -> Generator[Callable[[Progress], object] | None, None, None]:
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield Lines(time.monotonic).show


@contextmanager
def _bar() -> Generator[Callable[[Progress], object], None, None]:
    console = Console(file=cast("IO[str]", _Terminal()), highlight=False)
    bar = Bar(BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TextColumn("{task.description}"), console=console)
    with bar:
        task = bar.add_task("", total=None)

        def show(progress: Progress) -> None:
            share = progress.share
            total = None if share is None else 1.0
            bar.update(task, completed=share or 0, total=total, description=escape(line_of(progress, with_share=False)))

        yield show


class Lines:
    """A line every ten seconds, for logs."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next = clock() + _LINE_SECONDS

    def show(self, progress: Progress) -> None:
        if self._clock() >= self._next:
            self._next += _LINE_SECONDS
            say(line_of(progress))


def line_of(progress: Progress, *, with_share: bool = True) -> str:
    """The state of an import in one line."""
    counts = progress.counts
    parts = [f"{counts.delivered:,} delivered", f"{counts.rejected + counts.failed:,} rejected or failed"]
    parts.append(f"{progress.rate:,.0f}/s")
    if with_share and progress.share is not None:
        parts.insert(0, f"{progress.share:.0%}")
    if progress.seconds_left is not None:
        parts.append(f"{duration(progress.seconds_left)} left")
    if progress.trouble is not None:
        parts.append(f"retrying {harmless(progress.trouble)}")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """A time that people read: the two largest units."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3_600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def harmless(text: str) -> str:
    return "".join(each if each.isprintable() else "\ufffd" for each in text)
