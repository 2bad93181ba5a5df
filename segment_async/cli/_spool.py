"""`segment-async spool`: what is on disk, what failed, and what may be done about it, beside running processes."""

from __future__ import annotations

import datetime as dt
import itertools
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segment_async import SpoolUnavailable
from segment_async.spool import DeadLetter, PendingMessage, ShardStatus, SpoolInspector

_PATH = click.argument("path", type=click.Path(path_type=Path))
_LIMIT = click.option("--limit", default=20, show_default=True, metavar="N", help="Show so many, the oldest first.")


@click.group
def spool() -> None:
    """Look into a spool, and set right what went wrong.

    PATH is what the client was given: Client(..., spool=PATH). All of it is safe while processes use the spool.
    """


@spool.command
@_PATH
def status(path: Path) -> None:
    """Count what waits, what was delivered, and what failed."""
    with _visit(path) as visitor:
        shards, set_aside = visitor.status(), visitor.set_aside()
    console = _console()
    console.print(_status_table(shards))
    for reason, count in sorted(_reasons(shards).items()):
        console.print(Text(f"{count:,} {reason}", style="red"))
    for file in set_aside:
        console.print(Text(f"set aside as damaged, and may hold messages: {file}", style="yellow"))


@spool.command
@_PATH
@_LIMIT
@click.option("--id", "message_id", metavar="ID", help="Print this message's JSON instead.")
def show(path: Path, limit: int, message_id: str | None) -> None:
    """List pending messages in the order in which they will be sent."""
    with _visit(path) as visitor:
        if message_id is not None:
            _print_body(visitor.pending(), message_id)
            return
        table = _table("accepted", "message id", "type", "what", "user", "bytes", "attempts")
        for each in itertools.islice(visitor.pending(), limit):
            table.add_row(_time(each.accepted_at), *_described(each), _number(len(each.body)), _number(each.attempts))
    _console().print(table)


@spool.command
@_PATH
@_LIMIT
@click.option("--id", "message_id", metavar="ID", help="Print this message's JSON instead.")
def dead(path: Path, limit: int, message_id: str | None) -> None:
    """List dead letters: messages that failed for good, and why."""
    with _visit(path) as visitor:
        if message_id is not None:
            _print_body(visitor.dead(), message_id)
            return
        table = _table("failed", "message id", "type", "what", "user", "reason", "status", "attempts", "maybe there")
        for each in itertools.islice(visitor.dead(), limit):
            answer = "" if each.status_code is None else str(each.status_code)
            maybe = "yes" if each.possibly_delivered else ""
            table.add_row(_time(each.failed_at), *_described(each), each.reason, answer, _number(each.attempts), maybe)
    _console().print(table)


@spool.command
@_PATH
@click.option("--id", "message_ids", multiple=True, metavar="ID", help="This one; may be given several times.")
@click.option("--reason", "reasons", multiple=True, metavar="REASON", help="Those that failed so, such as gave_up.")
@click.option("--all", "everything", is_flag=True, help="All of them.")
def retry(path: Path, message_ids: tuple[str, ...], reasons: tuple[str, ...], everything: bool) -> None:
    """Put dead letters back in line, to be sent once more with the ids that they have."""
    if not (message_ids or reasons or everything):
        raise click.UsageError("say which: --id, --reason or --all")
    with _visit(path) as visitor:
        count = visitor.retry(lambda each: everything or each.message_id in message_ids or each.reason in reasons)
    click.echo(f"{count:,} put back in line")


@spool.command
@_PATH
@click.option("--user", required=True, metavar="ID", help="Its userId, anonymousId or previousId, exactly.")
@click.confirmation_option(
    "--yes", prompt="Erase all of this user's messages, pending ones and dead letters, for good?"
)
def purge(path: Path, user: str) -> None:
    """Erase a user's messages from the disk, as a request for erasure demands.

    What a running process has read already may still be sent: stop it first to be sure.
    """
    with _visit(path) as visitor:
        count, set_aside = visitor.purge(user), visitor.set_aside()
    click.echo(f"{count:,} erased")
    for file in set_aside:
        click.echo(f"not looked into, because it is damaged: {file}", err=True)


@spool.command
@_PATH
@click.option("--dead", "of_dead_letters", is_flag=True, help="Dead letters instead of pending messages.")
@click.option("--output", type=click.File("wb"), default="-", metavar="FILE", help="Standard output by default.")
def export(path: Path, of_dead_letters: bool, output: Any) -> None:
    """Write messages as JSON, one a line, as they would be sent. Nothing is removed."""
    with _visit(path) as visitor:
        for each in visitor.dead() if of_dead_letters else visitor.pending():
            output.write(each.body + b"\n")


@contextmanager
def _visit(path: Path) -> Iterator[SpoolInspector]:
    try:
        yield SpoolInspector(path)
    except (SpoolUnavailable, OSError) as fault:
        raise click.ClickException(str(fault)) from fault


def _print_body(messages: Iterator[PendingMessage] | Iterator[DeadLetter], message_id: str) -> None:
    for each in messages:
        if each.message_id == message_id:
            click.echo(each.body)
            return
    raise click.ClickException("there is no such message")


# -- tables


def _console() -> Console:
    # A pipe gets whole lines.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 250)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in ("bytes", "attempts", "status") else "left", no_wrap=True)
    return table


def _status_table(shards: list[ShardStatus]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("file", "used", "pending", "bytes", "oldest", "dead", "accepted", "delivered", "failed", "dropped"):
        table.add_column(column, justify="left" if column in ("file", "used", "oldest") else "right", no_wrap=True)
    for each in shards:
        counts = each.statistics
        table.add_row(
            Text(each.path.name),
            "yes" if each.in_use else "no",
            *map(_number, (counts.pending, counts.pending_bytes)),
            "" if each.oldest is None else _time(each.oldest),
            *map(_number, (counts.dead, counts.accepted, counts.delivered, counts.failed, counts.dropped)),
        )
    return table


def _reasons(shards: list[ShardStatus]) -> dict[str, int]:
    reasons: dict[str, int] = {}
    for each in shards:
        for reason, count in each.statistics.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    return reasons


def _described(message: PendingMessage | DeadLetter) -> list[Text]:
    """Id, type, what it is about, whose it is."""
    try:
        body = orjson.loads(message.body)
    except orjson.JSONDecodeError:
        body = {}
    what = body.get("event") or body.get("name") or body.get("groupId") or ""
    user = body.get("userId") or body.get("anonymousId") or ""
    return [_harmless(each) for each in (message.message_id, body.get("type", ""), what, user)]


def _harmless(value: object) -> Text:
    """Of somebody else's making: neither markup nor anything that a terminal obeys, and not too much of it."""
    text = "".join("\ufffd" if unicodedata.category(each) in ("Cc", "Cf") else each for each in str(value))
    return Text(text if len(text) <= 48 else text[:47] + "…")


def _number(value: int) -> str:
    return f"{value:,}"


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
