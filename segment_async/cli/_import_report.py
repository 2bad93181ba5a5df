"""What an import tells beside its progress: the announcement, the summary, and what a dry run found."""

from __future__ import annotations

from decimal import Decimal

import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segment_async.importing import DryRun, Importer, ImportOptions, ImportReport

from ._import_progress import duration, harmless


def announcement(options: ImportOptions, importer: Importer) -> str:
    if importer.already_done:
        return "An earlier run finished this import: nothing is sent. Use --restart to import again."
    records = importer.estimated_records
    resumed = f", {importer.resumed:,} of them done before" if importer.resumed else ""
    if records is None and options.limit is not None:
        records = options.limit
        amount = f"At most {records:,} {'record' if records == 1 else 'records'}{resumed}"
    elif records is None:
        amount = "An unknown number of records" + resumed
    else:
        amount = f"About {records:,} {'record' if records == 1 else 'records'}{resumed}"
    if not options.rate:
        return f"{amount}, without a limit of the rate."
    pace = f"at {options.rate:,.10g} a second"
    if records is None:
        return f"{amount}, {pace}."
    # What a transform makes of a record is known only later.
    each = len(options.mapping.choices) if options.mapping is not None else 1
    return f"{amount}, {pace}: {duration(max(0, records - importer.resumed) * each / options.rate)}."


def summary(report: ImportReport) -> Table:
    counts = report.counts
    table = _table("records", "")
    for name in ("delivered", "rejected", "failed", "skipped", "duplicates"):
        table.add_row(name, f"{getattr(counts, name):,}")
    table.add_row("total", f"{counts.records:,}", style="bold")
    if report.pending:
        table.add_row("without an outcome", f"{report.pending:,}")
    for reason, number in counts.reasons.most_common():
        table.add_row(Text(f"  reason: {reason}", "red"), f"{number:,}")
    for name, found in (("spec", counts.spec), ("plan", counts.plan)):
        for rule, number in found.most_common():
            table.add_row(Text(f"  {name}: {rule}", "yellow"), f"{number:,}")
    table.add_row("messages delivered", f"{counts.messages:,}")
    table.add_row("duration", duration(report.seconds))
    return table


def as_text(table: Table) -> str:
    """Not printed by rich, which ends the process itself when the reader of a pipe has gone."""
    console = Console(highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def show_dry(found: DryRun, options: ImportOptions) -> None:
    click.echo(as_text(_dry_table(found, options)), nl=False)
    _show_findings(found)
    for text in found.broken:
        click.echo(f"damaged: {harmless(text)}")
    for title, columns in (("unmapped columns", found.unmapped), ("mapped columns without a value", found.unseen)):
        if columns:
            click.echo(f"{title}: {harmless(', '.join(columns))}")
    for message in found.messages:
        click.echo(orjson.dumps(message, exact_number, orjson.OPT_NON_STR_KEYS))


def _dry_table(found: DryRun, options: ImportOptions) -> Table:
    counts = found.counts
    table = _table("dry run: nothing was sent", "")
    table.add_row("records", f"{counts.records:,}")
    for name, label in (("delivered", "to send"), ("rejected",) * 2, ("skipped",) * 2, ("duplicates",) * 2):
        table.add_row(label, f"{getattr(counts, name):,}")
    for name, number in found.types.most_common():
        table.add_row(f"  {name}", f"{number:,}")
    if found.own_integrations:
        table.add_row("with integrations of their own", f"{found.own_integrations:,}")
    table.add_row("distinct users", f"{'' if found.users.is_exact else 'about '}{found.users.count:,}")
    if found.first is not None:
        table.add_row("first", found.first)
        table.add_row("last", found.last)
    if found.seconds is not None:
        table.add_row(f"time at {options.rate:,.10g} a second", duration(found.seconds))
    return table


def _show_findings(found: DryRun) -> None:
    for title, findings in (("rejected", found.rejected), ("spec", found.spec), ("plan", found.plan)):
        for rule, finding in findings.items():
            click.echo(f"{title}: {rule}: {finding.count:,}")
            for example in finding.examples:
                click.echo(f"  {harmless(example)}")


def exact_number(value: object) -> object:
    """A number as it is sent."""
    return orjson.Fragment(str(value)) if isinstance(value, Decimal) else str(value)
