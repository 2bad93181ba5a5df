"""The generated pages of the reference are complete: they have every name, option, reason, rule, metric and command."""

import ast
import importlib
import inspect
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import segment_async
from segment_async import Client, Outcome, Response, RetryPolicy, Status, compat
from segment_async._message import conversions
from segment_async._outcome import REASONS
from segment_async._pipeline.retry import Action, AttemptContext, Finish, History, Refresh, Retry, Split, decide
from segment_async.aws_lambda import flush_after
from segment_async.importing import ImportOptions
from segment_async.instrumentation import COUNTERS, GAUGES
from segment_async.messages import MAX_MESSAGE_BYTES
from segment_async.relay import RedisSpool
from segment_async.specs import SPECS
from segment_async.spool import SQLiteSpool
from segment_async.testing import recording
from segment_async.verdicts import BATCH_MESSAGES
from segment_async.verdicts._naming import _KEY_TEXTS
from tests.docs.blocks import ROOT, blocks
from website import dashboard, public, reference, rules, values

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


def test_the_page_of_the_specs_names_their_classes() -> None:
    page = PAGES["reference/modules/specs.md"]
    for name in [*SPECS, "traits"]:
        module = importlib.import_module(f"segment_async.specs.{name}")
        row = re.search(rf"^\| `{module.__name__}` \| (.*) \|$", page, re.MULTILINE)
        assert row is not None, name
        assert re.findall(r"`(\w+)`", row[1]) == list(module.__all__)


def test_the_page_of_compat_has_every_difference() -> None:
    """The guide says so, and the docstring has them as a table in reStructuredText."""
    page = PAGES["reference/modules/compat.md"]
    rows = re.findall(r"^(?![ =])(.+?) {2,}\S", (compat.__doc__ or "").split("====\n")[2], re.MULTILINE)
    assert len(rows) > 20
    assert [row for row in rows if f"| {row.replace('``', '`')} | " not in page] == []


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
        assert f"``{word}``" in (Outcome.__doc__ or "")


def _rules() -> set[str]:
    """The names of all rules that `verdicts` can find: the second argument of a `Verdict`, or of what makes one."""
    position = {"Verdict": 1, "_required": 3}
    found = set(_KEY_TEXTS)
    for path in (ROOT / "segment_async" / "verdicts").glob("*.py"):
        for call in ast.walk(_without_makers(path)):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in position:
                rule = call.args[position[call.func.id]]
                assert isinstance(rule, ast.Constant), f"{path.name}:{call.lineno}: write the rule's name here"
                found.add(rule.value)
    return found


def _without_makers(path: Path) -> ast.Module:
    """A module without the functions whose rule is an argument, which is looked at where they are called."""
    tree = ast.parse(path.read_text())
    tree.body = [each for each in tree.body if getattr(each, "name", "") not in ("_required", "_key")]
    return tree


def test_every_rule_is_there_with_a_link_to_segments_documentation() -> None:
    page = PAGES["reference/verdicts.md"]
    found = dict(re.findall(r'<span id="([\w-]+)">.*\]\((https://[^)]+)\)', page))
    assert found.keys() == _rules()
    assert set(found.values()) <= set(rules.SPEC.values())


# JSON has them, or they are the client's own.
_WITHOUT_ROW = {"str", "int", "float", "list", "ExactNumber"}
# How the page names what the encoder knows by an attribute, or by a name that users never see.
_SHOWN_AS = {
    "IPv4Address": "ipaddress",
    "IPv4Interface": "ipaddress",
    "IPv4Network": "ipaddress",
    "IPv6Address": "ipaddress",
    "IPv6Interface": "ipaddress",
    "IPv6Network": "ipaddress",
    "Promise": "translated late",
    "LazyString": "translated late",
    "_LazyString": "translated late",
    "LazyProxy": "translated late",
    "NAType": "pandas’ `NA`",
    "model_dump": "pydantic models",
    "__attrs_attrs__": "attrs classes",
    "__struct_encode_fields__": "msgspec.Struct",
    "__pydantic_serializer__": "pydantic models",
    "__dataclass_fields__": "dataclass",
    "__fields_set__": "pydantic models",
    "unicode_string": "pydantic’s",
    "__fspath__": "os.PathLike",
    "tolist": "numpy scalar",
    "geturl": "urlsplit",
    "render_as_string": "SQLAlchemy",
}


def test_every_type_that_the_encoder_converts_is_there() -> None:
    bases = [base if isinstance(base, tuple) else (base,) for base, _ in conversions._BASE_TYPES]
    types = {kind.__name__ for kind in [*conversions._CONVERSIONS, *(kind for base in bases for kind in base)]}
    attributes = {name for name, _ in conversions._BEFORE_BASE_TYPES}
    by_name = conversions._TEXT_NAMES | conversions._NAMED.keys()
    by_looks = attributes | by_name | conversions._OBJECTS.keys() | conversions._DUCK_TYPES.keys()
    kinds = "\n".join(row[0] for row in values.ROWS)
    text = "\n".join(" ".join(row) for row in values.ROWS)

    def is_in(text: str, name: str) -> bool:
        return re.search(rf"(?<!\w){re.escape(_SHOWN_AS.get(name, name))}(?!\w)", text, re.IGNORECASE) is not None

    missing = {name for name in types - _WITHOUT_ROW if not is_in(kinds, name)}
    missing |= {name for name in by_looks if not is_in(text, name)}
    assert missing == set(), "add a row to website/values.py"


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


def test_the_guide_to_metrics_names_only_those_that_exist() -> None:
    guide = (ROOT / "docs" / "how-to" / "metrics.md").read_text()
    named = set(re.findall(r"\bsegment_(?!async)\w+", guide))
    assert len(named) > 5
    assert named <= set(re.findall(r"^(segment_\w+)", _exported(), re.MULTILINE)) | {"segment_request_duration_seconds"}


def test_every_environment_variable_is_in_the_documentation() -> None:
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "segment_async").rglob("*.py"))
    pages = "\n".join([*PAGES.values(), *(path.read_text() for path in (ROOT / "docs").rglob("*.md"))])
    read = set(re.findall(r"\bSEGMENT_[A-Z_]+[A-Z]\b", sources))
    assert "SEGMENT_HOST" in read
    assert read - set(re.findall(r"\bSEGMENT_[A-Z_]+[A-Z]\b", pages)) == set()


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
    import click

    from segment_async.cli._commands import segment_async as group

    page = PAGES["reference/cli.md"]
    context = click.Context(group)
    for name in group.list_commands(context):
        assert f"\n### segment-async {name}\n" in page
        for verb in getattr(group.get_command(context, name), "commands", {}):
            assert f"\n#### segment-async {name} {verb}\n" in page


def test_the_extras_are_listed_once_and_all() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs" / "start" / "install.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \|.*\| (.+) \|$", page, re.MULTILINE))
    assert listed.keys() == project["optional-dependencies"].keys()
    for extra, requirements in project["optional-dependencies"].items():
        for requirement in requirements:
            assert re.split(r"[\[>]", requirement)[0] in listed[extra]
    for requirement in project["dependencies"]:
        assert requirement.replace(">=", " ") in page


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("spool status missing.db", 1),
        ("spool unknown", 2),
        ("spool show missing.db --limit 0", 2),
        ("dev --chaos nonsense", 1),
        ("dev --unknown", 2),
        ("dev --keep 0", 2),
        ("relay redis://127.0.0.1:9 --lease inf", 2),
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


def _action(status: int, *, messages: int = 1, with_token: bool = False) -> Action:
    context = AttemptContext(now=0.0, wall_clock=0.0, random=0.0, messages=messages, with_token=with_token)
    return decide(Response(status, {}, b""), History(sends=1), context, RetryPolicy())[0]


def _words(action: Action) -> str:
    """How the page says it."""
    match action:
        case Finish(Status.DELIVERED):
            return "delivered"
        case Finish(_, reason):
            return f"`{reason}`"
        case Retry():
            return "retries"
        case Split(too_large=True):
            return "halves the batch"
        case Split():
            return "splits the batch"
        case Refresh():
            return "a fresh token"


def _statuses(rows: list[tuple[str, str]]) -> list[set[int]]:
    """The statuses of each row; "other 4xx" are those that no row names."""
    listed = {int(each) for cell, _ in rows for each in re.findall(r"(?<![–\d])\d{3}(?!–)", cell)}
    found = []
    for cell, _ in rows:
        statuses = {int(each) for each in re.findall(r"(?<![–\d])\d{3}(?!–)", cell)}
        for each in re.findall(r"(\d)xx", cell):
            statuses |= {*range(int(each) * 100, int(each) * 100 + 100)} - listed
        if "outside of 200–599" in cell:
            statuses |= {*range(100, 200), *range(600, 700)}
        found.append(statuses)
    return found


def test_each_answer_means_what_the_page_says() -> None:
    section = PAGES["reference/wire.md"].partition("## What an answer means")[2]
    rows = re.findall(r"^\| (.*\d.*?) \| .+? \| (.+) \|$", section, re.MULTILINE)
    statuses = _statuses(rows)
    assert sorted(status for each in statuses for status in each) == [*range(100, 700)]
    for (_, does), each in zip(rows, statuses, strict=True):
        for status in each:
            for messages in (1, 2):
                assert _words(_action(status, messages=messages)) in does, status
    refreshed = {status for status in range(100, 700) if isinstance(_action(status, with_token=True), Refresh)}
    said = [each for (_, does), each in zip(rows, statuses, strict=True) if "a fresh token" in does]
    assert refreshed == set().union(*said) | {int(each) for each in re.findall(r"(\d{3}) with OAuth as", section)}


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/index.md",
        "docs/explanation/how-it-works.md",
        "docs/troubleshooting/missing.md",
        "docs/troubleshooting/outage.md",
    ],
)
def test_the_guides_say_for_how_long_a_batch_is_retried(page: str) -> None:
    text = (ROOT / page).read_text()
    assert {12 * 3_600: "twelve hours"}[int(RetryPolicy().give_up_after)] in text
    if page.endswith("outage.md"):
        assert {60: "a back-off of up to a minute"}[int(RetryPolicy().max_backoff)] in text
