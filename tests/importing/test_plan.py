"""An import beside a tracking plan: violations are counted or rejected, in the import, the dry run and the command."""

from decimal import Decimal

import orjson
import pytest

from segment_async.importing import ImportUsageError, dry_run
from segment_async.plans import Plan
from tests.plans.samples import rule

from .support import RecordingSegment, imported, options, orders, rejects_of, write_csv
from .test_cli import folder, run  # noqa: F401  # a fixture

PLAN = [rule("Order Completed", {"total": {"type": "number", "maximum": 100}}, required=("total",))]


def write_events(tmp_path):
    """Ready-made messages: ten good ones, and one for each rule of a plan."""

    def event(user, name, properties):
        message = {"type": "track", "userId": user, "event": name, "timestamp": "2024-05-01T10:00:00Z"}
        return orjson.dumps(message | {"properties": properties})

    path = tmp_path / "events.jsonl"
    good = [event(f"u{number}", "Order Completed", {"total": number}) for number in range(10)]
    bad = [
        event("too-high", "Order Completed", {"total": 100.5}),
        event("missing", "Order Completed", {}),
        event("unplanned", "Order Complete", {"total": 5}),
        event("misspelt", "Order Completed", {"total": 5, "totl": 5}),
    ]
    path.write_bytes(b"\n".join([*good, *bad]))
    return path


BROKEN = {"plan-violation": 2, "plan-unplanned-event": 1, "plan-unplanned-property": 1}
GIVEN = {"mapping": None, "destinations": "none", "plan": PLAN}


def test_violations_are_counted_and_sent(tmp_path):
    report, segment = imported(write_events(tmp_path), **GIVEN)
    assert (report.exit_code, len(segment.messages)) == (0, 14)
    assert (report.counts.plan, report.counts.spec, report.counts.reasons) == (BROKEN, {}, {})
    assert report.as_dict()["plan"] == BROKEN


def test_violations_are_rejected_if_that_is_wished(tmp_path):
    report, segment = imported(write_events(tmp_path), on_violation="reject", **GIVEN)
    assert (report.exit_code, len(segment.messages)) == (1, 10)
    assert (report.counts.plan, report.counts.reasons) == ({}, BROKEN)
    assert [(reject["row"]["userId"], reject["rule"], reject["path"]) for reject in rejects_of(report)] == [
        ("too-high", "plan-violation", "properties.total"),
        ("missing", "plan-violation", "properties.total"),
        ("unplanned", "plan-unplanned-event", "event"),
        ("misspelt", "plan-unplanned-property", "properties.totl"),
    ]


def test_strict_leaves_violations_of_the_plan_to_their_own_option(tmp_path):
    assert imported(write_events(tmp_path), strict=True, **GIVEN)[0].exit_code == 0


def test_a_message_is_judged_as_it_is_sent(tmp_path):
    context = {"type": "object", "required": ["library"], "properties": {"library": {"type": "object"}}}
    schema = {"type": "object", "required": ["messageId", "context"], "properties": {"context": context}}
    plan = [*PLAN, {"type": "COMMON", "key": None, "version": 1, "jsonSchema": schema}]
    report, _ = imported(write_csv(tmp_path / "orders.csv", orders(3)), plan=plan)
    assert (report.counts.delivered, report.counts.plan) == (3, {})


def test_a_number_that_would_be_sent_as_text_is_rejected(tmp_path):
    path = write_csv(tmp_path / "orders.csv", [("u", "2024-05-01T10:00:00Z", "9" * 400)])
    report, segment = imported(path, plan=PLAN, on_violation="reject")
    assert (report.counts.reasons, segment.messages) == ({"number": 1}, [])
    given = GIVEN | {"on_violation": "reject", "restart": True}
    report, _ = imported(path, transform=lambda _: bought({"total": Decimal("9" * 400)}), **given)
    assert report.counts.reasons == {"plan-violation": 1}


@pytest.mark.parametrize(("properties", "delivered"), [({"total": 1}, 1), ({"total": 1, "currency": 1}, 0)])
@pytest.mark.parametrize("digits", ["9" * 400, "9" * 5_000, "1E+400"])
def test_a_number_that_no_validator_takes_does_not_stop_an_import(tmp_path, properties, delivered, digits):
    """It travels as text."""
    path = write_csv(tmp_path / "orders.csv", orders(1))
    extra = bought(properties) | {"version": Decimal(digits)}
    report, segment = imported(path, transform=lambda _: dict(extra), **GIVEN | {"on_violation": "reject"})
    assert report.counts.delivered == delivered
    assert [message["version"] for message in segment.messages] == [digits] * delivered


def bought(properties):
    return {"type": "track", "userId": "u", "event": "Order Completed", "properties": properties}


def test_a_dry_run_shows_violations(tmp_path):
    path = write_events(tmp_path)
    found = dry_run(options(path, **GIVEN))
    assert (found.exit_code, found.counts.delivered) == (0, 14)
    assert {name: each.count for name, each in found.plan.items()} == BROKEN == found.counts.plan
    (example,) = found.plan["plan-unplanned-property"].examples
    assert example == f"{path}, line 14: properties.totl: totl is not in the tracking plan. Did you mean “total”?"
    found = dry_run(options(path, on_violation="reject", **GIVEN))
    assert (found.exit_code, found.counts.delivered) == (1, 10)
    assert {name: each.count for name, each in found.rejected.items()} == BROKEN
    assert found.plan == {}


def test_a_changed_plan_is_another_import_only_if_it_rejects(tmp_path):
    path = write_csv(tmp_path / "orders.csv", orders(3))
    other = [rule("Order Completed")]
    imported(path, plan=PLAN)
    assert imported(path, plan=other)[0].already_done
    imported(path, plan=Plan.load(PLAN), on_violation="reject", restart=True)
    with pytest.raises(ImportUsageError, match="an option that changes messages"):
        imported(path, plan=other, on_violation="reject")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"plan": "none.json"}, r"plan none\.json: cannot be read: No such file"),
        ({"plan": {}}, "plan: .*no tracking plan"),
        ({"plan": PLAN, "on_violation": "raise"}, "on-violation must be warn or reject"),
    ],
)
def test_a_plan_that_cannot_be_used_stops_before_anything_is_sent(tmp_path, given, text):
    segment = RecordingSegment()
    with pytest.raises(ImportUsageError, match=text):
        imported(write_csv(tmp_path / "orders.csv", orders(3)), segment=segment, **given)
    assert not segment.batches
    with pytest.raises(ImportUsageError, match=text):
        dry_run(options(tmp_path / "orders.csv", **given))


def test_the_command(folder):  # noqa: F811
    write_events(folder)
    (folder / "plan.json").write_bytes(orjson.dumps(PLAN))
    command = ("events.jsonl", "--destinations", "none", "--plan", "plan.json", "--dry-run")
    done = run(folder, *command)
    assert done.returncode == 0, done.stderr
    assert "plan: plan-violation: 2" in done.stdout
    assert "line 11: properties.total: Must be less than or equal to 100" in done.stdout
    found = orjson.loads(run(folder, *command, "--on-violation", "reject", "--json").stdout)
    assert (found["exit_code"], found["rejected"], found["rules"]["plan-unplanned-event"]["count"]) == (1, 4, 1)
    (folder / "plan.json").write_text("{")
    done = run(folder, *command)
    assert (done.returncode, "plan.json:1:2: not JSON" in done.stderr) == (2, True), done.stderr
