"""`segment-async spool`: shows what is on disk and what failed, and changes it, with or without running processes."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, cast

import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segment_async import SpoolUnavailable
from segment_async._outcome import REASONS
from segment_async.spool import DeadLetter, PendingMessage, ShardStatus, SpoolInspector

from ._numbers import COUNT


def _checked_path(_context: click.Context, _parameter: click.Parameter, path: str) -> str:
    if not _is_url(path):
        return path
    from ._relay import checked_url

    return checked_url(path)


_PATH = click.argument("path", callback=_checked_path)
_LIMIT = click.option(
    "--limit", type=COUNT, default=20, show_default=True, metavar="N", help="Show at most N, the oldest first."
)


@click.group
def spool() -> None:
    """Look into a spool, retry what failed, and erase messages.

    PATH is what the client was given: Client(..., spool=PATH), or the URL of a RedisSpool. Every command but rotate-key
    is safe while processes use the spool. If Redis has messages of several write keys, set SEGMENT_WRITE_KEY.
    """


@spool.command
@_PATH
def status(path: str) -> None:
    """Count the messages that are pending, were delivered, and failed."""
    if _is_url(path):
        from ._relay import show_status

        show_status(path)
        return
    with _inspect(path) as inspector:
        shards, set_aside = inspector.status(), inspector.set_aside()
    console = _console()
    console.print(_status_table(shards))
    reasons: Counter[str] = Counter()
    for each in shards:
        reasons.update(each.statistics.reasons)
    for reason, count in sorted(reasons.items()):
        console.print(_plain(f"{count:,} {reason}", "red"))
    for file in set_aside:
        console.print(_plain(f"set aside as damaged, and may hold messages: {file}", "yellow"))


@spool.command
@_PATH
@_LIMIT
@click.option("--id", "message_id", metavar="ID", help="Print this message's JSON instead.")
def show(path: str, limit: int, message_id: str | None) -> None:
    """List pending messages in the order in which they will be sent."""
    with _inspect(path) as inspector:
        if message_id is not None:
            _print_body(inspector.pending(), message_id)
            return
        table = _table("accepted", "message id", "type", "what", "user", "bytes", "attempts")
        for each in itertools.islice(inspector.pending(), limit):
            table.add_row(_time(each.accepted_at), *_described(each), _number(len(each.body)), _number(each.attempts))
    _console().print(table)


@spool.command
@_PATH
@_LIMIT
@click.option("--id", "message_id", metavar="ID", help="Print this message's JSON instead.")
def dead(path: str, limit: int, message_id: str | None) -> None:
    """List dead letters: messages that failed for good, and why."""
    columns = ("failed", "message id", "type", "what", "user", "reason", "status", "attempts", "possibly delivered")
    with _inspect(path) as inspector:
        if message_id is not None:
            _print_body(inspector.dead(), message_id)
            return
        table = _table(*columns, "answer")
        for each in itertools.islice(inspector.dead(), limit):
            code = "" if each.status_code is None else str(each.status_code)
            possibly = "yes" if each.possibly_delivered else ""
            row = (each.reason, code, _number(each.attempts), possibly, _harmless(each.answer, 80))
            table.add_row(_time(each.failed_at), *_described(each), *row)
    _console().print(table)


@spool.command
@_PATH
@click.option(
    "--id", "message_ids", multiple=True, metavar="ID", help="The one with this id; may be given several times."
)
@click.option(
    "--reason",
    "reasons",
    multiple=True,
    metavar="REASON",
    help="Those with this reason, such as gave_up; may be given several times.",
)
@click.option("--all", "everything", is_flag=True, help="All of them.")
def retry(path: str, message_ids: tuple[str, ...], reasons: tuple[str, ...], everything: bool) -> None:
    """Put dead letters back, to be sent once more with the same ids.

    Exits with 1 if an ID matches no dead letter, or if a REASON does not exist. A REASON may match none.
    """
    if not (message_ids or reasons or everything):
        raise click.UsageError("say which: --id, --reason or --all")
    found: Counter[str] = Counter()
    ids = set[str]()

    def is_wanted(letter: DeadLetter) -> bool:
        found[letter.reason] += 1
        ids.add(letter.message_id)
        return everything or letter.message_id in message_ids or letter.reason in reasons

    with _inspect(path) as inspector:
        count = inspector.retry(is_wanted)
    click.echo(f"{_messages(count)} put back")
    if not count:
        there = ", ".join(f"{reason} ({number:,})" for reason, number in sorted(found.items()))
        click.echo(f"dead letters by reason: {there}" if there else "there are no dead letters", err=True)
    unmatched = [f"--id {message_id}" for message_id in message_ids if message_id not in ids]
    unmatched += [f"--reason {reason}" for reason in reasons if reason not in found and reason not in REASONS]
    for option in unmatched:
        click.echo(f"no dead letter matches {_harmless(option, None)}", err=True)
    if unmatched:
        sys.exit(1)


@spool.command
@_PATH
@click.option("--user", required=True, metavar="ID", help="Its userId, anonymousId or previousId, exactly.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(path: str, user: str, yes: bool) -> None:
    """Erase a user's messages, such as for a request for erasure (GDPR).

    A running process may still send what it has in memory: stop it first, to be sure.
    """
    with _inspect(path) as inspector:
        if not yes:
            count = inspector.count_of_user(user)
            click.confirm(
                f"Erase {_messages(count)} of this user, pending ones and dead letters, for good?", abort=True
            )
        count, set_aside = inspector.purge(user), inspector.set_aside()
    click.echo(f"{_messages(count)} erased")
    for file in set_aside:
        click.echo(f"not looked into, because it is damaged: {file}", err=True)


@spool.command
@_PATH
@click.option("--dead", "of_dead_letters", is_flag=True, help="Dead letters instead of pending messages.")
@click.option(
    "--output", type=click.Path(dir_okay=False), default="-", metavar="FILE", help="Standard output by default."
)
def export(path: str, of_dead_letters: bool, output: str) -> None:
    """Write messages as JSON, one a line, as they would be sent. Nothing is removed."""
    if output != "-" and os.path.exists(output) and os.path.exists(path) and os.path.samefile(output, path):
        raise click.UsageError("--output is the spool itself, which would be lost: give another file")
    with _inspect(path) as inspector, click.open_file(output, "wb") as file:
        for each in inspector.dead() if of_dead_letters else inspector.pending():
            file.write(each.body + b"\n")
        # Standard output is not closed here: an error of its last bytes must be raised all the same.
        file.flush()


@spool.command
@_PATH
def rotate_key(path: str) -> None:
    """Let the next client take the spool over, whatever its write key and host.

    A spool belongs to one write key and host, and another client is refused. Run this after the key was rotated, with
    no process using the spool. In Redis each write key has messages of its own, and relays need the old key for them.
    """
    if _is_url(path):
        raise click.UsageError("in Redis each write key has messages of its own: run a relay with the old key for them")
    with _inspect(path) as inspector:
        inspector.rotate_key()
        pending = sum(each.statistics.pending for each in inspector.status())
    click.echo(f"the next client on this path sends {_messages(pending)} with its own write key")


@contextmanager
def _inspect(path: str) -> Generator[Any, None, None]:
    """What shows and changes the spool; both kinds have the same methods, except where a command says so."""
    try:
        if not _is_url(path):
            yield SpoolInspector(path)
            return
        from segment_async.relay import RelayInspector

        with RelayInspector(path, os.environ.get("SEGMENT_WRITE_KEY") or None) as inspector:
            yield inspector
    except BrokenPipeError:
        raise  # the reader of the output is gone; click ends without a message
    except (SpoolUnavailable, OSError, ImportError, ValueError) as fault:
        raise click.ClickException(str(fault)) from fault


def _is_url(path: str) -> bool:
    return path.startswith(("redis://", "rediss://", "unix://"))


def _print_body(messages: Iterator[PendingMessage] | Iterator[DeadLetter], message_id: str) -> None:
    for each in messages:
        if each.message_id == message_id:
            click.echo(each.body)
            return
    raise click.ClickException("there is no such message")


def _messages(count: int) -> str:
    return f"{count:,} {'message' if count == 1 else 'messages'}"


# -- tables


def _console() -> Console:
    # A pipe gets whole lines.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 400)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        # An id is what --id takes: it is wrapped rather than cut.
        table.add_column(
            column,
            justify="right" if column in ("bytes", "attempts", "status") else "left",
            no_wrap=column != "message id",
            overflow="fold" if column == "message id" else "ellipsis" if _is_unicode() else "crop",
        )
    return table


def _status_table(shards: list[ShardStatus]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column, (justify, _) in _STATUS_COLUMNS.items():
        table.add_column(column, justify=justify, no_wrap=True)
    for each in shards:
        table.add_row(*(cell(each) for _, cell in _STATUS_COLUMNS.values()))
    return table


_STATUS_COLUMNS: Final[dict[str, tuple[Literal["left", "right"], Callable[[ShardStatus], str | Text]]]] = {
    "file": ("left", lambda each: _plain(each.path.name)),
    "used": ("left", lambda each: "yes" if each.in_use else "no"),
    "pending": ("right", lambda each: _number(each.statistics.pending)),
    "bytes": ("right", lambda each: _number(each.statistics.pending_bytes)),
    "oldest": ("left", lambda each: "" if each.oldest is None else _time(each.oldest)),
    "dead": ("right", lambda each: _number(each.statistics.dead)),
    "accepted": ("right", lambda each: _number(each.statistics.accepted)),
    "delivered": ("right", lambda each: _number(each.statistics.delivered)),
    "failed": ("right", lambda each: _number(each.statistics.failed)),
    "dropped": ("right", lambda each: _number(each.statistics.dropped)),
}


def _described(message: PendingMessage | DeadLetter) -> list[Text]:
    """Id, type, what it is about, whose it is."""
    found: object
    try:
        found = orjson.loads(message.body)
    except orjson.JSONDecodeError:
        found = None
    body = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    what = body.get("event") or body.get("name") or body.get("groupId") or ""
    user = body.get("userId") or body.get("anonymousId") or ""
    return [_harmless(message.message_id, None), *(_harmless(each) for each in (body.get("type", ""), what, user))]


def _harmless(value: object, limit: int | None = 48) -> Text:
    """Text from outside: without markup and without anything that a terminal obeys, and not too much of it."""
    text = "".join("\ufffd" if unicodedata.category(each) in ("Cc", "Cf") else each for each in str(value))
    return _plain(text if limit is None or len(text) <= limit else text[: limit - 1] + "\u2026")


def _plain(text: str, style: str = "") -> Text:
    """Text with what the terminal's encoding does not have replaced."""
    encoding = sys.stdout.encoding or "ascii"
    return Text(text.encode(encoding, errors="replace").decode(encoding), style=style)


def _is_unicode() -> bool:
    return (sys.stdout.encoding or "ascii").lower().replace("-", "").startswith("utf")


def _number(value: int) -> str:
    return f"{value:,}"


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
