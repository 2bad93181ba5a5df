"""The generated pages of the reference are complete: they have every name, option, reason, rule, metric and command."""

import ast
import inspect
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import segment_async
from segment_async import Client
from segment_async._outcome import REASONS
from segment_async.aws_lambda import flush_after
from segment_async.importing import ImportOptions
from segment_async.instrumentation import COUNTERS, GAUGES
from segment_async.messages import MAX_MESSAGE_BYTES
from segment_async.relay import RedisSpool
from segment_async.spool import SQLiteSpool
from segment_async.testing import recording
from segment_async.verdicts import BATCH_MESSAGES
from tests.docs.blocks import ROOT, blocks
from website import dashboard, public, reference, rules

PAGES = reference.pages()
BY_HAND = {f"reference/{path.name}": path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md")}
ALL = PAGES | BY_HAND


def test_no_public_name_lacks_a_docstring() -> None:
    assert public.undocumented() == []


def test_every_public_name_is_on_a_page() -> None:
    text = "\n".join(ALL.values())
    shown = set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))
    wanted = {f"{module}.{name}" for module in public.modules() for name in public.names(module)}
    assert wanted - shown == set()
    assert {name for name in segment_async.__all__ if f"segment_async.{name}" not in shown} == {
        "__version__",
        "messages",
    }


def test_the_public_modules_are_those_of_the_package() -> None:
    files = {path.stem for path in (ROOT / "segment_async").glob("*") if path.suffix == ".py" or path.is_dir()}
    expected = {name for name in files if not name.startswith("_")} - public.NOT_IMPORTED_BY_USERS
    assert {name.partition(".")[2] for name in public.modules()[1:]} == expected


def test_every_option_is_there_with_its_default() -> None:
    page = PAGES["reference/options.md"]
    for parameter in [*inspect.signature(Client).parameters.values()][1:]:
        row = re.search(rf"^\| `{parameter.name}` \| (.+?) \| (.+) \|$", page, re.MULTILINE)
        assert row is not None, parameter.name
        if parameter.name not in reference.DEFAULTS:
            assert ast.literal_eval(row[1].strip("`")) == parameter.default


def test_every_reason_is_there_with_a_remedy() -> None:
    assert reference.REMEDIES.keys() == REASONS.keys()
    for word in REASONS:
        assert f"| `{word}` |" in PAGES["reference/reasons.md"]


def _rules() -> set[str]:
    """The names of all rules that `verdicts` can find: the second argument of a `Verdict`, or of what makes one."""
    sources = (ROOT / "segment_async" / "verdicts").glob("*.py")
    tree = ast.parse("\n".join(path.read_text() for path in sources))
    position = {"Verdict": 1, "_required": 3}
    return {
        argument.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in position
        for argument in call.args[position[call.func.id] : position[call.func.id] + 1]
        if isinstance(argument, ast.Constant)
    } | {"key-secret", "key-personal"}


def test_every_rule_is_there_with_a_link_to_segments_documentation() -> None:
    page = PAGES["reference/verdicts.md"]
    found = dict(re.findall(r'<span id="([\w-]+)">.*\]\((https://[^)]+)\)', page))
    assert found.keys() == _rules()
    assert set(found.values()) <= set(rules.SPEC.values())


def test_every_metric_is_there() -> None:
    page = PAGES["reference/metrics.md"]
    for name in [*GAUGES, *COUNTERS]:
        assert f"| `{name}` |" in page


def _exported() -> str:
    """What Prometheus scrapes, with one request made."""
    prometheus = pytest.importorskip("segment_async.prometheus")
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    with recording() as segment:
        prometheus.watch(segment.client, registry=registry)
        segment.client.nowait.track("user-1", "Order Completed")
    return generate_latest(registry).decode()


def test_the_metrics_have_the_names_that_prometheus_gets() -> None:
    exported = set(re.findall(r"^# TYPE (\S+)", _exported(), re.MULTILINE))
    documented = {
        name for name in re.findall(r"`(segment_[a-z_]+)", PAGES["reference/metrics.md"]) if name != "segment_async"
    }
    assert {name.removesuffix("_created") for name in exported} == documented


ALERTS = blocks(ROOT / "docs" / "how-to" / "alerts.md")


def test_alerts_and_dashboard_use_metrics_and_labels_that_are_exported() -> None:
    exported = _exported()
    names = set(re.findall(r"^(segment_\w+)", exported, re.MULTILINE))
    labels = set(re.findall(r'(\w+)="', exported)) | {"instance"}  # Prometheus adds that one itself
    queries = [query for _, query, _, _ in dashboard.panels()]
    queries += re.findall(r"expr: (?:>-\n)?((?:.+\n)+?) +(?:for|annotations):", ALERTS[0].text)
    queries += re.findall(r"`(segment_\w+ [<>] [^`]+)`", (ROOT / "docs" / "how-to" / "alerts.md").read_text())
    assert len(queries) > 10
    for query in queries:
        used = set(re.findall(r"segment_\w+", query))
        assert used, query
        assert used <= names, query
        grouped = ",".join(re.findall(r"by \(([^)]+)\)", query))
        assert {*re.findall(r"(\w+)[!=]", query), *re.findall(r"\w+", grouped)} <= labels, query
    left_out = re.search(r'reason!~"([^"]+)"', ALERTS[0].text)
    assert left_out is not None
    assert set(left_out[1].split("|")) <= REASONS.keys()


def _default(function: Callable[..., Any], option: str) -> Any:
    return inspect.signature(function).parameters[option].default


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("how-to/serverless.md", f"for at most `timeout` ({_default(flush_after, 'timeout'):g} seconds)"),
        ("how-to/serverless.md", f"`margin` ({_default(flush_after, 'margin'):g} seconds)"),
        ("how-to/spool.md", f"`max_bytes` ({_default(SQLiteSpool, 'max_bytes') // 2**30} GiB)"),
        ("relay.md", f"`max_messages` ({_default(RedisSpool, 'max_messages'):,} by default)"),
        ("relay.md", f"`max_dead` ({_default(RedisSpool, 'max_dead'):,})"),
        ("relay.md", f"`append_timeout` ({_default(RedisSpool, 'append_timeout'):g} seconds)"),
        ("relay.md", f"its lease of {_default(RedisSpool, 'lease'):g} seconds"),
        ("import.md", f"{ImportOptions(sources=['x']).rate:g} messages a second"),
        ("troubleshooting/missing.md", f"larger than {MAX_MESSAGE_BYTES:,} bytes"),
        ("troubleshooting/memory.md", f"by {_default(Client, 'max_queue_size'):,} events"),
        ("troubleshooting/memory.md", f"by {_default(Client, 'max_queue_bytes') // 2**20} MiB"),
        (
            "explanation/how-it-works.md",
            f"up to {['no', 'one', 'two', 'three', 'four'][_default(Client, 'max_in_flight')]} at once",
        ),
        ("explanation/how-it-works.md", f"at most {BATCH_MESSAGES:,} events and 500,000 bytes"),
    ],
)
def test_numbers_on_the_pages_are_those_of_the_code(page: str, text: str) -> None:
    assert text in (ROOT / "docs" / page).read_text()


def test_the_dashboard_is_up_to_date() -> None:
    assert dashboard.FILE.read_text() == dashboard.text(), "run `make dashboard`"


def test_every_command_is_there() -> None:
    from segment_async.cli._commands import segment_async as group

    page = PAGES["reference/cli.md"]
    for name, command in group.commands.items():
        assert f"\n### segment-async {name}\n" in page
        for verb in getattr(command, "commands", {}):
            assert f"\n#### segment-async {name} {verb}\n" in page


def test_the_extras_are_listed_once_and_all() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs" / "start" / "install.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \|.*\| (.+) \|$", page, re.MULTILINE))
    assert listed.keys() == project["optional-dependencies"].keys()
    for extra, requirements in project["optional-dependencies"].items():
        for requirement in requirements:
            assert re.split(r"[\[>]", requirement)[0] in listed[extra]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("spool status missing.db", 1),
        ("spool unknown", 2),
        ("dev --chaos nonsense", 1),
        ("dev --unknown", 2),
        ("plan lint missing.json", 2),
        ("import missing.csv", 2),
    ],
)
def test_a_command_exits_as_the_page_says(
    command: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from segment_async.cli._commands import segment_async as group

    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(group, command.split()).exit_code == code
    name = command.partition(" ")[0]
    section = BY_HAND["reference/exit-codes.md"].partition(f"## `segment-async {name}`")[2].partition("\n## ")[0]
    assert re.search(rf"^\| {code} \|", section, re.MULTILINE)


def test_the_wire_format_shows_a_real_batch() -> None:
    page = PAGES["reference/wire.md"]
    assert '"event": "Order Completed"' in page
    assert f'"version": "{segment_async.__version__}"' in page
    assert "Authorization: Basic " in page
