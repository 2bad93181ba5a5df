"""`segment-async plan`, command by command."""

import asyncio
import json
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from segment_async import Client
from segment_async.cli._commands import segment_async
from segment_async.plans import Plan, generate
from segment_async.specs import SPECS, plan_of
from segment_async.testing import RecordingTransport
from tests.plans.samples import COMMON, ORDER_COMPLETED, rule, track

TOKEN = "THE-TOKEN"


def run(*arguments: object, **options: Any) -> Result:
    result = CliRunner().invoke(segment_async, ["plan", *map(str, arguments)], **options)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps([ORDER_COMPLETED]))
    return path


def lines(path: Path, *messages: Any) -> Path:
    path.write_text("".join(f"{json.dumps(message)}\n" for message in messages))
    return path


class TestLint:
    def test_a_plan_with_findings(self, plan: Path) -> None:
        result = run("lint", plan)
        assert result.exit_code == 0
        assert "/properties/properties/properties/odd/type: 'any' is no type of JSON Schema" in result.output
        assert "0 errors, 1 other finding\n" in result.output

    def test_errors(self, plan: Path) -> None:
        lines(plan, [rule(properties={"p": {"pattern": "(?!x)"}}), ORDER_COMPLETED])
        result = run("lint", plan)
        assert result.exit_code == 1
        assert result.output.startswith("error: TRACK “Signed Up” version 1: cannot be judged: ")

    @pytest.mark.parametrize(
        ("content", "said"), [("{", "plan.json:1:2: not JSON"), ("a,b\n", "CSV"), ("{}", "Known are")]
    )
    def test_no_plan(self, plan: Path, content: str, said: str) -> None:
        plan.write_text(content)
        result = run("lint", plan)
        assert (result.exit_code, said in result.output) == (2, True)


class TestCheck:
    GOOD = track(properties={"order_id": "o-1", "plan": None})
    BAD = track(properties={"order_id": 1, "plan": None})

    def test_messages_that_follow_it(self, plan: Path, tmp_path: Path) -> None:
        result = run("check", plan, lines(tmp_path / "events.jsonl", self.GOOD))
        assert (result.exit_code, result.output) == (0, "0 of 1 message against the plan\n")

    def test_violations_are_counted(self, plan: Path, tmp_path: Path) -> None:
        events = lines(
            tmp_path / "e.jsonl", self.BAD, {"message": self.BAD, "id": 1}, {"batch": [self.GOOD, track("A\u001b")]}
        )
        result = run("check", plan, events)
        assert result.exit_code == 1
        first, second, last = result.output.splitlines()
        assert first.split() == [
            *("2", "Order", "Completed", "plan-violation", "properties.order_id:", "Invalid", "type.", "Expected:"),
            *("string,", "given:", "integer"),
        ]
        assert "1  A\ufffd  plan-unplanned-event  event: A\ufffd is not in the tracking plan." in second
        assert last == "3 of 4 messages against the plan"

    def test_as_json_from_standard_input(self, plan: Path) -> None:
        result = run("check", plan, "-", "--json", input=json.dumps(self.BAD))
        assert json.loads(result.output.splitlines()[0]) == {
            "event": "Order Completed",
            "rule": "plan-violation",
            "path": "properties.order_id",
            "text": "Invalid type. Expected: string, given: integer",
            "count": 1,
        }

    def test_a_spool(self, plan: Path, tmp_path: Path) -> None:
        class Down(RecordingTransport):
            async def send(self, body: bytes, headers: Any) -> Any:
                await asyncio.Event().wait()

        async def fill() -> None:
            async with Client("key", spool=tmp_path / "spool.db", transport=Down(), close_timeout=0) as client:
                await client.track("u", "Order Completed", {"order_id": 1, "plan": None})

        asyncio.run(fill())
        result = run("check", plan, tmp_path / "spool.db")
        assert (result.exit_code, "1 of 1 message against the plan" in result.output) == (1, True)

    @pytest.mark.parametrize(
        "text",
        [
            json.dumps([BAD, GOOD]),
            json.dumps([BAD, GOOD], indent=2),
            json.dumps([{"message": BAD}, {"batch": [GOOD]}]),
            f"{json.dumps([BAD])}\n\n{json.dumps([GOOD])}",
            f"\n{json.dumps(BAD, indent=2)}\n{json.dumps(GOOD, indent=2)}\n",
            f"\ufeff{json.dumps(BAD)}\n{json.dumps(GOOD)}",
            json.dumps({"batch": [BAD, GOOD]}, indent=2),
        ],
    )
    def test_arrays_and_values_that_span_lines(self, plan: Path, tmp_path: Path, text: str) -> None:
        (tmp_path / "e.json").write_text(text, "utf-8")
        for result in (run("check", plan, tmp_path / "e.json"), run("check", plan, "-", input=text.encode())):
            assert (result.exit_code, "1 of 2 messages against the plan" in result.output) == (1, True)

    def test_a_plan_is_inferred_from_an_array(self, tmp_path: Path) -> None:
        result = run("infer", lines(tmp_path / "e.json", [self.GOOD]))
        assert [rule["key"] for rule in json.loads(result.output)["rules"]] == ["Order Completed"]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("{}\n5", ":2: not a message but a number"),
            ("null", ":1: not a message but null"),
            ("{}\ntrue", ":2: not a message but a boolean"),
            ('{}\n\n"x"', ":3: not a message but a text"),
            ("[{}, [{}]]", ":1: value 2 of the array is not a message but an array"),
            ('{"batch": [{}, 5]}', ":1: value 2 of the batch is not a message but a number"),
            ('{\n "type": "track",\n 5}', ":3:2: not JSON: "),
            ('{\n "type": "track"\n}\n5', ":4: not a message but a number"),
            ('{\n "total": NaN}', ":1: not JSON: NaN is not a JSON number"),
            ('{\n "total": 1e999}', ":1: not JSON: 1e999 is not a JSON number"),
            ('{\n "total": "\\ud800"}', ":1: not JSON: "),
            ("[" * 100_000, ":1: not JSON: "),
        ],
    )
    def test_what_is_no_message(self, plan: Path, tmp_path: Path, text: str, said: str) -> None:
        (tmp_path / "e.jsonl").write_text(text)
        result = run("check", plan, tmp_path / "e.jsonl")
        assert (result.exit_code, f"e.jsonl{said}" in result.output) == (2, True), result.output

    def test_what_is_no_text(self, plan: Path, tmp_path: Path) -> None:
        (tmp_path / "e.jsonl").write_bytes(b'{\n"a": "\xff"}')
        result = run("check", plan, tmp_path / "e.jsonl")
        assert (result.exit_code, "e.jsonl:2: not JSON: not UTF-8" in result.output) == (2, True)

    @pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="it is a file that is there and cannot be read")
    def test_what_cannot_be_read(self, plan: Path) -> None:
        result = run("check", plan, "/proc/self/mem")
        assert (result.exit_code, "Input/output error" in result.output) == (2, True)

    def test_what_is_no_json(self, plan: Path, tmp_path: Path) -> None:
        (tmp_path / "e.jsonl").write_text("{}\n{")
        result = run("check", plan, tmp_path / "e.jsonl")
        assert (result.exit_code, "e.jsonl:2:2: not JSON" in result.output) == (2, True)


class TestGenerate:
    def test_a_module(self, plan: Path, tmp_path: Path) -> None:
        output = tmp_path / "events.py"
        assert run("generate", plan, "-o", output).exit_code == 0
        assert output.read_text("utf-8") == generate(Plan.load(plan)) == run("generate", plan).output

    def test_whether_it_is_up_to_date(self, plan: Path, tmp_path: Path) -> None:
        output = tmp_path / "events.py"
        assert run("generate", plan, "-o", output, "--check").exit_code == 1
        run("generate", plan, "-o", output)
        assert run("generate", plan, "-o", output, "--check").exit_code == 0
        output.write_text("# edited")
        assert run("generate", plan, "-o", output, "--check").exit_code == 1
        assert output.read_text() == "# edited"

    def test_a_file_that_is_no_text_is_not_up_to_date(self, plan: Path, tmp_path: Path) -> None:
        output = tmp_path / "events.py"
        output.write_bytes(b"\xff")
        result = run("generate", plan, "-o", output, "--check")
        assert (result.exit_code, "is not what" in result.output) == (1, True)

    def test_choices(self, plan: Path) -> None:
        lines(plan, [ORDER_COMPLETED, rule("a b"), rule("A b")])
        assert run("generate", plan).exit_code == 2
        chosen = run("generate", plan, "--name", "a b=Other", "--event", "a b").output
        assert "class Other(TrackEvent):" in chosen
        assert "OrderCompleted" not in chosen
        assert "class OrderCompleted" in run("generate", plan, "--name", "a b=X", "--label", "area=checkout").output
        assert run("generate", plan, "--label", "area").exit_code == 2

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--name", "Order Complete=X"], "not in the plan: Order Complete; did you mean 'Order Completed'?"),
            (["--name", "Nope=X"], "not in the plan: Nope"),
            (["--event", "Nope"], "not in the plan: Nope"),
            (["--label", "area=chekout"], "no event has the labels area=chekout; the plan has area=checkout"),
            (["--event", "Order Completed", "--label", "area=a", "--label", "x=y"], "area=a, x=y; the plan has area="),
        ],
    )
    def test_what_the_plan_does_not_have(self, plan: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
        output = tmp_path / "events.py"
        result = run("generate", plan, "-o", output, *arguments)
        assert (result.exit_code, said in result.output) == (2, True), result.output
        assert not output.exists()

    def test_a_plan_without_labels(self, plan: Path) -> None:
        lines(plan, [rule()])
        result = run("generate", plan, "--label", "area=a")
        assert (result.exit_code, "the plan has no labels" in result.output) == (2, True)

    def test_the_class_of_the_traits(self, plan: Path) -> None:
        lines(plan, [rule(None, {"a": {}}, kind="IDENTIFY")])
        assert "class Person(PlannedTraits)" in run("generate", plan, "--name", "IDENTIFY=Person").output
        assert run("generate", plan, "--name", "IDENTIFY=1st").exit_code == 2

    def test_a_file_that_cannot_be_written(self, plan: Path, tmp_path: Path) -> None:
        for command in (["generate", plan], ["new", "--spec", SPECS[0]]):
            result = run(*command, "-o", tmp_path / "nowhere" / "file")
            assert (result.exit_code, "cannot be written: No such file or directory" in result.output) == (2, True)


@pytest.mark.parametrize("command", [["generate"], ["check", "-"]])
def test_rules_that_are_not_used_are_named(plan: Path, command: list[str]) -> None:
    lines(plan, [rule(), rule(kind="SMELL\u001b"), rule(None), {"type": "TRACK", "key": "Seen", "version": 1}])
    name, *arguments = command
    result = run(name, plan, *arguments, input=json.dumps(track("Seen")))
    assert result.exit_code == 0
    assert [line for line in result.stderr.splitlines() if line.startswith("warning: ")] == [
        "warning: rule 2: skipped: unknown type of rule 'SMELL\\x1b'",
        "warning: TRACK “Seen” version 1: jsonSchema is missing, so that any content passes",
        "warning: TRACK version 1: has no key, so that no event is checked against it",
    ]
    assert "warning" not in result.stdout


def test_diff(plan: Path, tmp_path: Path) -> None:
    new = lines(tmp_path / "new.json", [ORDER_COMPLETED, rule()])
    assert run("diff", plan, new).output == "compatible: TRACK “Signed Up” version 1: added\n"
    result = run("diff", new, plan)
    assert (result.exit_code, result.output) == (1, "breaking: TRACK “Signed Up” version 1: removed\n")


def test_infer(tmp_path: Path) -> None:
    events = lines(tmp_path / "events.jsonl", track("Signed Up", {"plan": "pro"}))
    assert run("infer", events, "-o", tmp_path / "plan.json").exit_code == 0
    assert run("check", tmp_path / "plan.json", events).exit_code == 0
    assert run("infer", lines(events)).exit_code == 2


@pytest.mark.parametrize("command", ["infer", "generate"])
def test_no_output_is_written_over_what_is_read(plan: Path, command: str) -> None:
    given = lines(plan, track("Signed Up")) if command == "infer" else plan
    before = given.read_bytes()
    result = run(command, given, "-o", given)
    assert (result.exit_code, "itself, which would be lost" in result.output) == (2, True)
    assert given.read_bytes() == before


@pytest.mark.parametrize("command", ["infer", "generate"])
def test_an_output_that_cannot_be_looked_at_is_a_plain_error(plan: Path, command: str) -> None:
    given = lines(plan, track("Signed Up")) if command == "infer" else plan
    result = run(command, given, "-o", plan.with_name("x" * 300))
    assert (result.exit_code, "cannot be written: File name too long" in result.output) == (2, True)


@pytest.mark.parametrize("spec", SPECS)
def test_new(spec: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    assert run("new", "--spec", spec, "-o", path).exit_code == 0
    assert Plan.load(path).events() == Plan.load(plan_of(spec)).events()
    assert run("lint", path).exit_code == 0


def page(rules: list[Any], *, following: str | None = None, total: int | None = None) -> dict[str, Any]:
    pagination = {"current": "a", "next": following, "totalEntries": total}
    return {"rules": rules, "pagination": {name: value for name, value in pagination.items() if value is not None}}


class PublicAPI:
    """Two pages of rules; a first request is refused as too many; `redirect` sends all elsewhere."""

    def __init__(self, redirect: str = "", pages: list[Any] | None = None) -> None:
        self.redirect = redirect
        self.pages = pages
        self.tokens: list[str] = []
        self.refused = False

    async def answer(self, request: web.Request) -> web.Response:
        self.tokens.append(request.headers["Authorization"])
        if self.redirect:
            return web.Response(status=302, headers={"Location": self.redirect})
        if not self.refused:
            self.refused = True
            return web.Response(status=429, headers={"Retry-After": "0"})
        if TOKEN not in request.headers["Authorization"]:
            return web.Response(status=401)
        if not request.path.endswith("rules"):
            return web.json_response({"data": {"trackingPlan": {"id": "tp_1", "name": "Shop"}}})
        assert request.query["pagination.count"] == "200"
        if self.pages is not None:
            return web.json_response({"data": self.pages.pop(0)})
        if "pagination.cursor" not in request.query:
            return web.json_response(
                {"data": {"rules": [ORDER_COMPLETED], "pagination": {"current": "a", "next": "b"}}}
            )
        return web.json_response({"data": {"rules": [COMMON], "pagination": {"current": "b"}}})


@pytest.fixture
def serve() -> Any:
    """Runs a Public API in a thread of its own; the value is its address."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    runners: list[web.AppRunner] = []

    def started(api: PublicAPI) -> str:
        async def start() -> int:
            app = web.Application()
            app.router.add_get("/{path:.*}", api.answer)
            runner = web.AppRunner(app)
            await runner.setup()
            runners.append(runner)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return int(runner.addresses[0][1])

        return f"http://127.0.0.1:{asyncio.run_coroutine_threadsafe(start(), loop).result(10)}"

    yield started
    for runner in runners:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


class TestPull:
    def test_all_pages_sorted_and_lossless(self, serve: Any, tmp_path: Path) -> None:
        api, path = PublicAPI(), tmp_path / "plan.json"
        result = run("pull", "tp_1", "-o", path, "--host", serve(api), env={"SEGMENT_PUBLIC_API_TOKEN": TOKEN})
        assert (result.exit_code, result.output) == (0, "2 rules pulled\n")
        assert json.loads(path.read_text()) == {
            "trackingPlan": {"id": "tp_1", "name": "Shop"},
            "rules": [COMMON, ORDER_COMPLETED],
        }
        assert set(api.tokens) == {f"Bearer {TOKEN}"}
        assert [each.type for each in Plan.load(path).rules] == ["COMMON", "TRACK"]

    def test_a_wrong_token_from_standard_input(self, serve: Any) -> None:
        result = run(
            "pull", "tp_1", "--host", serve(PublicAPI()), input="WRONG\n", env={"SEGMENT_PUBLIC_API_TOKEN": ""}
        )
        assert result.exit_code == 1
        assert "answered 401: the token is wrong" in result.output
        assert "WRONG" not in result.output

    @pytest.mark.parametrize("host", ["nowhere", "ftp://127.0.0.1", "http://[", "http://127.0.0.1:99999"])
    def test_what_is_no_server(self, host: str) -> None:
        result = run("pull", "tp_1", "--host", host, env={"SEGMENT_PUBLIC_API_TOKEN": TOKEN})
        assert (result.exit_code, "not an address of a server" in result.output) == (1, True)

    def test_without_a_token(self) -> None:
        assert run("pull", "tp_1", input="", env={"SEGMENT_PUBLIC_API_TOKEN": ""}).exit_code == 2

    def test_the_token_is_not_sent_elsewhere(self, serve: Any) -> None:
        other = PublicAPI()
        first = PublicAPI(serve(other).replace("127.0.0.1", "localhost"))
        result = run("pull", "tp_1", "--host", serve(first), env={"SEGMENT_PUBLIC_API_TOKEN": TOKEN})
        assert (result.exit_code, "redirected to localhost, which does not get the token" in result.output) == (1, True)
        assert other.tokens == []

    @pytest.mark.parametrize("address", ["http://[", "https://api.segmentapis.com:99999/"])
    def test_a_redirect_to_no_address(self, serve: Any, address: str) -> None:
        result = run("pull", "tp_1", "--host", serve(PublicAPI(address)), env={"SEGMENT_PUBLIC_API_TOKEN": TOKEN})
        assert result.exit_code == 1
        assert result.output == "Error: 127.0.0.1 redirected to something other than an address\n"

    def test_half_of_a_surrogate_pair_is_written_as_json_has_it(self, serve: Any, tmp_path: Path) -> None:
        api, path = PublicAPI(pages=[page([rule("Signed \ud800Up")])]), tmp_path / "plan.json"
        path.write_text("the plan of yesterday")
        result = run("pull", "tp_1", "-o", path, "--host", serve(api), env={"SEGMENT_PUBLIC_API_TOKEN": TOKEN})
        assert result.exit_code == 0, result.output
        assert Plan.load(path).events() == ["Signed \ud800Up"]

    @pytest.mark.parametrize(
        ("pages", "said"),
        [
            ([page([rule()], total=930)], "1 of 930 rules came"),
            ([page([rule()], following="b", total=3), page([COMMON], total=3)], "2 of 3 rules came"),
            ([page([rule()], following="b"), page([COMMON], following="b")], "a page a second time"),
            ([page([rule()], following="b"), page([rule()])], "TRACK “Signed Up” version 1 came twice"),
            ([page([rule()], following="a")], "a page a second time"),
            ([{"rules": 5}], "answered without rules"),
            ([{"rules": [5]}], "answered without rules"),
            ([{"pagination": {"current": "a"}}], "answered without rules"),
        ],
    )
    def test_what_is_not_the_whole_plan(self, serve: Any, tmp_path: Path, pages: list[Any], said: str) -> None:
        api, path = PublicAPI(pages=pages), tmp_path / "plan.json"
        result = run("pull", "tp_1", "-o", path, "--host", serve(api), env={"SEGMENT_PUBLIC_API_TOKEN": TOKEN})
        assert (result.exit_code, said in result.output, path.exists()) == (1, True, False), result.output

    def test_versions_of_an_event_are_different_rules(self, serve: Any) -> None:
        api = PublicAPI(pages=[page([rule(version=1), rule(version=2)], total=2)])
        result = run("pull", "tp_1", "--host", serve(api), env={"SEGMENT_PUBLIC_API_TOKEN": TOKEN})
        assert (result.exit_code, "2 rules pulled" in result.output) == (0, True)

    @pytest.mark.parametrize("token", ["SECRET\nPART", "SECRET PART", "SECRET\u00e9"])
    def test_a_token_that_is_none(self, token: str) -> None:
        result = run("pull", "tp_1", "--host", "http://127.0.0.1:9", env={"SEGMENT_PUBLIC_API_TOKEN": token})
        assert result.exit_code == 2
        assert "the token contains a character that no token has" in result.output
        assert "SECRET" not in result.output

    def test_the_token_is_not_shown_to_the_network(self) -> None:
        host = "http://0.0.0.0:9"
        result = run("pull", "tp_1", "--host", host, env={"SEGMENT_PUBLIC_API_TOKEN": TOKEN})
        assert (result.exit_code, "--allow-http" in result.output) == (2, True)

    def test_the_token_is_shown_to_the_network_if_that_is_allowed(self) -> None:
        host = "http://0.0.0.0:9"
        result = run("pull", "tp_1", "--host", host, "--allow-http", env={"SEGMENT_PUBLIC_API_TOKEN": TOKEN})
        assert (
            result.exit_code,
            "no answer from 0.0.0.0 (ClientConnectorError): check the network" in result.output,
        ) == (1, True)
