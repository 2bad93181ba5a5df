"""`segment-async plan`: tracking plans, from Segment to types in your editor."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
import orjson

from segment_async.plans import NoValidator, Plan, PlanError, diff, generate, infer, lint
from segment_async.specs import SPECS, plan_of

from ._messages import BadInput, messages
from ._pull import HOST, PullError, is_readable, pull

Found = TypeVar("Found")

_TOKEN = "SEGMENT_PUBLIC_API_TOKEN"  # noqa: S105  # the variable's name
_PLAN = click.argument("plan_path", metavar="PLAN", type=click.Path(path_type=Path))
_EVENTS = click.argument("events", type=click.Path(path_type=Path, allow_dash=True))
_OUTPUT = click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Standard output by default."
)


@click.group
def plan() -> None:
    """Pull a tracking plan, check messages against it, and generate typed events from it.

    PLAN is a JSON file, as `pull`, `infer` and `new` write it.
    """


@plan.command("pull")
@click.argument("plan_id", metavar="TP_ID")
@_OUTPUT
@click.option("--host", default=HOST, show_default=True, metavar="URL", help="Where Segment's Public API is.")
@click.option("--allow-http", is_flag=True, help="Allow a plain http:// host beyond loopback.")
def pull_plan(plan_id: str, output: Path | None, host: str, allow_http: bool) -> None:
    """Read a plan from Segment's Public API.

    The token comes from SEGMENT_PUBLIC_API_TOKEN, or from standard input. If rules are missing in the answer,
    nothing is written, and the exit code is 1.
    """
    token = os.environ.get(_TOKEN) or ("" if sys.stdin.isatty() else sys.stdin.readline())
    if not token.strip():
        raise BadInput(f"set {_TOKEN}, or write the token to standard input")
    if not all("!" <= letter <= "~" for letter in token.strip()):
        raise BadInput("the token contains a character that no token has, such as a line break or a space")
    try:
        if is_readable(host) and not allow_http:
            raise click.UsageError(
                "--host must use https://: plain http:// shows the token to the network; see --allow-http"
            )
        pulled = asyncio.run(pull(plan_id, token.strip(), host))
    except PullError as error:
        raise click.ClickException(str(error)) from None
    _write(_json(pulled), output)
    click.echo(f"{_count(len(pulled['rules']), 'rule')} pulled", err=True)


@plan.command("lint")
@_PLAN
def lint_plan(plan_path: Path) -> None:
    """Show what is wrong with a plan; exit with 1 if there are errors."""
    problems = _judging(lambda: lint(_load(plan_path)))
    for problem in problems:
        click.echo(_printable(str(problem)))
    errors = sum(problem.severity == "error" for problem in problems)
    click.echo(f"{_count(errors, 'error')}, {_count(len(problems) - errors, 'other finding')}", err=True)
    sys.exit(1 if errors else 0)


@plan.command
@_PLAN
@_EVENTS
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each violation, with its count.")
def check(plan_path: Path, events: Path, as_json: bool) -> None:
    """Check messages against a plan; exit with 1 if any violates it.

    EVENTS is a file of JSON, one message a line (as `dev --save` writes it) or in arrays, or a spool; - is standard
    input. Anything else than messages in it ends with 2.
    """
    loaded = _warned(_load(plan_path))
    found: Counter[tuple[str, str, str, str]] = Counter()
    total = violating = 0
    for message in messages(events):
        total += 1
        verdicts = _judging(partial(loaded.judge, message))
        violating += bool(verdicts)
        name = str(message.get("event") or message.get("type") or "")
        found.update((name, verdict.rule, verdict.path, verdict.text) for verdict in verdicts)
    for (name, rule, path, text), count in sorted(found.items(), key=lambda item: (-item[1], item[0])):
        if as_json:
            click.echo(orjson.dumps({"event": name, "rule": rule, "path": path, "text": text, "count": count}))
        else:
            click.echo(_printable(f"{count:>7,}  {name}  {rule}  {path}: {text}"))
    click.echo(f"{violating:,} of {_count(total, 'message')} against the plan", err=True)
    sys.exit(1 if violating else 0)


@plan.command("generate")
@_PLAN
@_OUTPUT
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Only events with this label.")
@click.option("--event", "events", multiple=True, metavar="NAME", help="Only this event; may be given several times.")
@click.option("--name", "names", multiple=True, metavar="EVENT=CLASS", help="The class of an event.")
@click.option("--check", "only_check", is_flag=True, help="Write nothing; exit with 1 if FILE is not up to date.")
def generate_module(
    plan_path: Path,
    output: Path | None,
    labels: tuple[str, ...],
    events: tuple[str, ...],
    names: tuple[str, ...],
    only_check: bool,
) -> None:
    """Write a Python module with a class for each event. Parts of the plan that are not used are listed on stderr."""
    if only_check and output is None:
        raise click.UsageError("--check needs -o")
    _check_output(output, plan_path, "the plan")
    try:
        code = generate(_warned(_load(plan_path)), labels=_pairs(labels), events=events or None, names=_pairs(names))
    except PlanError as error:
        raise BadInput(str(error)) from None
    if not only_check or output is None:
        _write(code, output)
        return
    if not _is_same(output, code):
        raise click.ClickException(f"{output} is not what {plan_path} generates; run this command without --check")


@plan.command("diff")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
def diff_plans(old: Path, new: Path) -> None:
    """Show what changed between two plans, breaking changes first; exit with 1 if there are any."""
    changes = diff(_load(old), _load(new))
    for change in changes:
        click.echo(_printable(str(change)))
    sys.exit(1 if any(change.is_breaking for change in changes) else 0)


@plan.command("infer")
@_EVENTS
@_OUTPUT
def infer_plan(events: Path, output: Path | None) -> None:
    """Write a plan for messages that were sent, as a start. EVENTS is as for `check`."""
    _check_output(output, events, "EVENTS")
    inferred = infer(messages(events))
    if not inferred["rules"]:
        raise BadInput(f"{events} has no calls from which to infer a plan")
    _write(_json(inferred), output)


@plan.command
@click.option(
    "--spec", "specs", type=click.Choice(SPECS), multiple=True, required=True, help="May be given several times."
)
@_OUTPUT
def new(specs: tuple[str, ...], output: Path | None) -> None:
    """Write a plan with the events of Segment's semantic specs."""
    rules = {rule["key"]: {**rule, "version": 1} for spec in specs for rule in plan_of(spec)["rules"]}
    _write(_json({"rules": [rules[key] for key in sorted(rules)]}), output)


# -- files


def _load(path: Path) -> Plan:
    try:
        return Plan.load(path)
    except (PlanError, OSError) as error:
        raise BadInput(str(error)) from None


def _warned(plan: Plan) -> Plan:
    """The plan, once standard error says what of it is not used."""
    for problem in plan.problems:
        click.echo(_printable(str(problem)), err=True)
    return plan


def _judging(judge: Callable[[], Found]) -> Found:
    try:
        return judge()
    except NoValidator as error:
        raise click.ClickException(str(error)) from None


def _pairs(options: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for option in options:
        name, separator, value = option.rpartition("=")
        if not separator or not name:
            raise click.UsageError(f"must be NAME=VALUE: {option}")
        pairs[name] = value
    return pairs


def _check_output(output: Path | None, read: Path, what: str) -> None:
    """Raises:
    UsageError: the output is a file that is read.
    """
    # `Path.exists` raises if the name is too long, or if the folder may not be searched.
    if output is not None and os.path.exists(output) and os.path.exists(read) and output.samefile(read):
        raise click.UsageError(f"-o is {what} itself, which would be lost: give another file")


def _write(text: str, output: Path | None) -> None:
    # A lone surrogate becomes an escape, which is the same in JSON.
    content = text.encode(errors="backslashreplace")
    if output is None:
        click.echo(content, nl=False)
        return
    try:
        output.write_text(content.decode(), "utf-8")
    except OSError as error:
        raise BadInput(f"{output}: cannot be written: {error.strerror or error}") from None


def _is_same(path: Path, text: str) -> bool:
    try:
        return path.read_text("utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _printable(text: str) -> str:
    """Text from outside without anything that a terminal obeys."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
