"""`segment-async relay`: deliver what waits in Redis, and look at what is there."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import click
from rich.console import Console
from rich.table import Table

from segment_async import SpoolUnavailable

from ._numbers import COUNT, FROM_ZERO, LEASE, PORT, POSITIVE

if TYPE_CHECKING:
    from segment_async.relay import RelayInspector


def _given_url(_context: click.Context, _parameter: click.Parameter, url: str | None) -> str:
    if url is None:
        raise click.UsageError("give the URL of Redis, such as rediss://host:6379/0, or set SEGMENT_REDIS_URL")
    return checked_url(url)


def checked_url(url: str) -> str:
    """Also for `segment-async spool`.

    Raises:
        UsageError: it is no URL of Redis.
    """
    with _readable_errors():
        from segment_async.relay._server import check_redis

        try:
            check_redis(url)
        except ValueError:
            # Without the URL, which may hold a password.
            raise click.UsageError(
                "the URL of Redis must look like rediss://host:6379/0, with a number as the database"
            ) from None
    return url


_URL = click.argument("url", envvar="SEGMENT_REDIS_URL", required=False, callback=_given_url)


class _RunByDefault(click.Group):
    """Without the name of a sub-command it is `run`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].isalpha() and args[0] not in self.commands:
            commands = ", ".join(sorted(self.commands))
            ctx.fail(f"No such command {args[0]!r}; give {commands}, or the URL of Redis, such as rediss://host:6379/0")
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_RunByDefault, short_help="Deliver what hosts handed over to Redis.", options_metavar="")
def relay() -> None:
    """Deliver what hosts handed over to Redis: segment-async relay URL [--rate N] [--metrics-port N].

    Hosts hand over with Client(..., spool=RedisSpool(URL), deliver=False). Several relays may run. The write key comes
    from SEGMENT_WRITE_KEY, and the URL from SEGMENT_REDIS_URL if it is not given, so that no password is in the list of
    processes. All options: segment-async relay run --help.
    """


@relay.command
@_URL
@click.option("--rate", type=POSITIVE, metavar="N", help="Messages a second, all relays together.  [default: no limit]")
@click.option(
    "--region", type=click.Choice(["us", "eu"]), default="us", show_default=True, help="The workspace's region."
)
@click.option("--host", metavar="URL", help="Where to send; default: SEGMENT_HOST, or Segment in the region.")
@click.option("--allow-http", is_flag=True, help="Allow a plain http:// host beyond loopback.")
@click.option(
    "--metrics-port",
    type=PORT,
    metavar="N",
    help="Serve /livez, /readyz and /metrics; 0 picks a free port.",
)
@click.option("--metrics-host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to serve them.")
@click.option("--max-in-flight", type=COUNT, default=4, show_default=True, metavar="N", help="Requests at once.")
@click.option(
    "--max-queue-size",
    type=COUNT,
    default=10_000,
    show_default=True,
    metavar="N",
    help="Messages in memory.",
)
@click.option(
    "--close-timeout",
    type=FROM_ZERO,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait at the end for what is in flight.",
)
@click.option(
    "--lease",
    type=LEASE,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="When other relays take over from one that hangs; the same for all relays.",
)
def run(
    url: str,
    rate: float | None,
    region: Literal["us", "eu"],
    host: str | None,
    allow_http: bool,
    metrics_port: int | None,
    metrics_host: str,
    max_in_flight: int,
    max_queue_size: int,
    close_timeout: float,
    lease: float,
) -> None:
    """Deliver until SIGTERM. The same as `segment-async relay URL`."""
    write_key = os.environ.get("SEGMENT_WRITE_KEY", "")
    if not write_key.strip():
        raise click.UsageError("set SEGMENT_WRITE_KEY")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    with _readable_errors():
        from segment_async.relay import RelayOptions, run_relay
        from segment_async.relay._run import RelayUsageError

        options = RelayOptions(
            url=url,
            write_key=write_key,
            rate=rate,
            region=region,
            host=host,
            allow_http=allow_http,
            max_in_flight=max_in_flight,
            max_queue_size=max_queue_size,
            close_timeout=close_timeout,
            lease=lease,
            metrics_port=metrics_port,
            metrics_host=metrics_host,
        )
        try:
            asyncio.run(run_relay(options, started=logging.getLogger("segment_async").info))
        except RelayUsageError as error:
            raise click.UsageError(str(error)) from error


@relay.command
@_URL
def status(url: str) -> None:
    """Show the backlog, its age, the dead letters, and what each relay holds."""
    show_status(url)


def show_status(url: str) -> None:
    """Also for `segment-async spool status`."""
    with _readable_errors(), _inspector(url) as inspector:
        found = inspector.status()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    age = "none" if found.oldest_age is None else str(dt.timedelta(seconds=round(found.oldest_age)))
    table = Table(box=None, pad_edge=False, show_header=False)
    rows: list[tuple[str, object]] = [
        ("key", found.fingerprint),
        ("backlog", f"{found.backlog:,}"),
        ("oldest", age),
        ("unread", f"{found.unread:,}"),
        ("dead letters", f"{found.dead:,}"),
        ("memory in Redis", f"{found.bytes / 2**20:,.1f} MiB"),
    ]
    if found.unknown:
        rows.append(("for a newer version", f"{found.unknown:,}"))
    for name, value in rows:
        table.add_row(name, str(value))
    console.print(table)
    consumers = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("consumer", "held", "last seen"):
        consumers.add_column(column, justify="left" if column == "consumer" else "right")
    for each in found.consumers:
        consumers.add_row(each.name, f"{each.held:,}", f"{each.idle:,.0f} s ago")
    if found.consumers:
        console.print()
        console.print(consumers)


@relay.command
@_URL
def check(url: str) -> None:
    """Find problems that lose or delay messages; give stranded messages back to the relays.

    Exits with 1 if problems are left.
    """
    with _readable_errors(), _inspector(url) as inspector:
        repaired = inspector.repair()
        problems = inspector.problems()
    if repaired:
        what = (
            "1 message of a removed consumer is" if repaired == 1 else f"{repaired:,} messages of removed consumers are"
        )
        click.echo(f"repaired: {what} given to relays again")
    for problem in problems:
        click.echo(f"problem: {problem}")
    if problems:
        sys.exit(1)
    click.echo("no problems found")


def _inspector(url: str) -> RelayInspector:
    from segment_async.relay import RelayInspector

    return RelayInspector(url, os.environ.get("SEGMENT_WRITE_KEY") or None)


@contextmanager
def _readable_errors() -> Generator[None, Any, None]:
    try:
        yield
    except (ImportError, OSError, SpoolUnavailable, ValueError) as error:
        raise click.ClickException(str(error)) from error
