"""The examples do what they say: the day can be made again and is valid, and the scripts run as they stand.

The scripts run as a reader runs them, in a process of their own; only the demo's endpoint is sometimes another.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from segment_async.verdicts import judge

EXAMPLES = Path(__file__).parents[1] / "examples"
SHOP_DAY = EXAMPLES / "data" / "shop-day.jsonl"


CHOSEN = "kestrelandpine-2026-11-20-00018"
# Replaces the endpoint, and may report wrong messages.
STAND_IN = """
import gzip, json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

option = dict(zip(sys.argv[1::2], sys.argv[2::2]))

class Endpoint(BaseHTTPRequestHandler):
    def do_POST(self):
        body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
        received = [message["messageId"] for message in json.loads(body)["batch"]]
        LIE
        with open(option["--save"], "a") as saved:
            saved.writelines(json.dumps({"message": {"messageId": message_id}}) + "\\n" for message_id in received)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass

with ThreadingHTTPServer(("127.0.0.1", int(option["--port"])), Endpoint) as server:
    print(f"Listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
"""
DEMO_WITH_ANOTHER_ENDPOINT = f"""
import sys
sys.path.insert(0, {str(EXAMPLES)!r})
import demo
sys.exit(demo.main(sys.argv[2:], endpoint=[sys.executable, "-c", sys.argv[1]]))
"""


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        env=os.environ | environment,
        text=True,
        timeout=60,
        check=False,
    )


def run_demo_against(lie: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    endpoint = STAND_IN.replace("LIE", lie).replace("CHOSEN", repr(CHOSEN))
    return run("-c", DEMO_WITH_ANOTHER_ENDPOINT, endpoint, *arguments)


@pytest.fixture(scope="module")
def day() -> list[dict[str, Any]]:
    return [json.loads(line) for line in SHOP_DAY.read_text(encoding="utf-8").splitlines()]


class TestTheShopDay:
    def test_the_seed_gives_the_committed_bytes(self, tmp_path: Path) -> None:
        again = tmp_path / "again.jsonl"
        made = run(EXAMPLES / "make_shop_day.py", again)
        assert made.returncode == 0, made.stderr
        assert again.read_bytes() == SHOP_DAY.read_bytes()

    def test_it_is_a_busy_day_of_all_six_calls(self, day: list[dict[str, Any]]) -> None:
        assert len(day) >= 5_000
        assert {message["type"] for message in day} == {"track", "identify", "page", "screen", "group", "alias"}
        assert SHOP_DAY.stat().st_size < 5_000_000

    def test_no_message_has_a_verdict(self, day: list[dict[str, Any]]) -> None:
        faults = [(m["messageId"], v) for m in day for v in judge(m) if v.severity in ("dropped", "spec")]
        assert faults == []

    def test_a_broken_message_would_be_detected(self, day: list[dict[str, Any]]) -> None:
        broken = next(message for message in day if message["type"] == "track") | {"event": ""}
        assert [verdict.rule for verdict in judge(broken)] == ["event-missing"]

    def test_ids_are_unique_and_namespaced(self, day: list[dict[str, Any]]) -> None:
        ids = Counter(message["messageId"] for message in day)
        assert ids.most_common(1)[0][1] == 1
        assert all(message_id.startswith("kestrelandpine-2026-11-20-") for message_id in ids)

    def test_it_is_one_day_in_chronological_order_busiest_at_lunch_and_in_the_evening(
        self, day: list[dict[str, Any]]
    ) -> None:
        times = [message["timestamp"] for message in day]
        assert times == sorted(times)
        assert all(time.startswith("2026-11-20T") and time.endswith("Z") for time in times)
        by_hour = Counter(int(time[11:13]) for time in times)
        assert by_hour[10] < by_hour[12] > by_hour[14]
        assert by_hour[16] < by_hour[20] > by_hour[23]

    def test_sums_of_orders_add_up(self, day: list[dict[str, Any]]) -> None:
        orders = [message["properties"] for message in day if message.get("event") == "Order Completed"]
        assert len(orders) > 50
        for order in orders:
            goods = sum(item["price"] * item["quantity"] for item in order["products"])
            assert order["revenue"] == pytest.approx(goods - order["discount"])
            assert order["total"] == pytest.approx(order["revenue"] + order["shipping"] + order["tax"])

    def test_refunds_do_not_exceed_payments(self, day: list[dict[str, Any]]) -> None:
        paid = {
            message["properties"]["order_id"]: (message["timestamp"], message["properties"]["total"])
            for message in day
            if message.get("event") == "Order Completed"
        }
        refunds = [message for message in day if message.get("event") == "Order Refunded"]
        todays = [refund for refund in refunds if refund["properties"]["order_id"] in paid]
        assert len(refunds) > len(todays) > 0
        for refund in todays:
            ordered_at, total = paid[refund["properties"]["order_id"]]
            assert ordered_at < refund["timestamp"]
            assert refund["properties"]["total"] <= total

    def test_anonymous_visitors_become_known(self, day: list[dict[str, Any]]) -> None:
        aliases = [message for message in day if message["type"] == "alias"]
        for alias in aliases:
            theirs = [message for message in day if message.get("anonymousId") == alias["previousId"]]
            before = [message for message in theirs if "userId" not in message]
            after = [message for message in theirs if message.get("userId") == alias["userId"]]
            assert before and after
            assert len(before) + len(after) == len(theirs)
            assert max(m["timestamp"] for m in before) <= alias["timestamp"] <= min(m["timestamp"] for m in after)


class TestTheDemo:
    def test_everything_accepted_is_received(self) -> None:
        done = run(EXAMPLES / "demo.py", "--messages", "300")
        assert done.returncode == 0, done.stderr
        assert "All 300 messages that were accepted were received, id for id." in done.stdout
        assert "\x1b" not in done.stdout
        rows = {words[0]: words[1:] for line in done.stdout.splitlines() if (words := line.replace("│", " ").split())}
        assert rows["all"][:2] == ["300", "300"]
        assert {"track", "identify", "page", "screen", "group", "alias"} <= rows.keys()

    def test_an_outage_in_the_middle_loses_nothing(self) -> None:
        done = run(EXAMPLES / "demo.py", "--messages", "300", "--outage", "0.2")
        assert done.returncode == 0, done.stderr
        assert re.search(r"The endpoint is back. \d+ messages waited; no call raised.", done.stdout)
        assert "All 300 messages" in done.stdout

    @pytest.mark.parametrize(
        ("lie", "difference"),
        [
            ("received = [one for one in received if one != CHOSEN]", f"accepted, never received: {CHOSEN}"),
            ("received += ['stranger' for one in received if one == CHOSEN]", "received, never accepted: stranger"),
            ("received += [one for one in received if one == CHOSEN]", f"received 2 times: {CHOSEN}"),
        ],
    )
    def test_it_detects_differences(self, lie: str, difference: str) -> None:
        done = run_demo_against(lie, "--messages", "50")
        assert done.returncode == 1, done.stderr
        assert difference in done.stdout
        assert "1 of 50 messages differ." in done.stdout

    def test_it_reports_an_endpoint_that_does_not_start(self) -> None:
        done = run("-c", DEMO_WITH_ANOTHER_ENDPOINT, "raise SystemExit(7)")
        assert (done.returncode, done.stderr) == (1, "The endpoint did not start; its exit code is 7.\n")

    def test_messages_is_a_positive_number(self) -> None:
        assert run(EXAMPLES / "demo.py", "--messages", "0").returncode == 2

    def test_ctrl_c_in_an_outage_ends_it_at_once(self) -> None:
        with started_demo("--messages", "50", "--outage", "60") as demo:
            read_until(demo, "The endpoint is down")
            demo.send_signal(signal.SIGINT)
            said, _ = demo.communicate(timeout=30)
        assert (demo.returncode, said.splitlines()[-1]) == (130, "Stopped.")

    @pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 130)])
    def test_keep_keeps_the_endpoint_running_until_it_is_stopped(self, how: signal.Signals, status: int) -> None:
        with started_demo("--messages", "50", "--keep") as demo:
            url = read_until(demo, "The endpoint stays up at ").split()[5]
            with urlopen(f"{url}/_dev/summary", timeout=10) as answer:
                assert json.load(answer)["total"] == 50
            demo.send_signal(how)
            demo.communicate(timeout=30)
        assert demo.returncode == status
        with pytest.raises(URLError):
            urlopen(f"{url}/_dev/summary", timeout=10)

    def test_a_terminal_shows_the_day_filling_up(self) -> None:
        pty = pytest.importorskip("pty")
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-W", "error", str(EXAMPLES / "demo.py"), "--messages", "5"],
            stdout=theirs,
            env=os.environ | {"TERM": "xterm-256color"},
        ) as demo:
            os.close(theirs)
            with open(ours, "rb", buffering=0) as screen:
                shown = b"".join(iter(lambda: read_terminal(screen), b"")).decode()
        assert demo.returncode == 0
        assert "A day at Kestrel & Pine" in shown
        assert "\x1b[" in shown
        assert "All 5 messages" in shown


@contextmanager
def started_demo(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "error", str(EXAMPLES / "demo.py"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        try:
            yield demo
        finally:
            demo.terminate()


def read_until(demo: subprocess.Popen[str], text: str) -> str:
    assert demo.stdout is not None
    return next(line for line in demo.stdout if line.startswith(text))


def read_terminal(screen: FileIO) -> bytes:
    try:
        return screen.read(65_536)
    except OSError:  # on Linux, after the other side has closed it
        return b""


class TestTheQuickstart:
    def test_it_runs_against_the_host_of_the_environment(self) -> None:
        with started_endpoint() as (url, received):
            done = run(EXAMPLES / "quickstart.py", SEGMENT_HOST=url)
            assert done.returncode == 0, done.stderr
            assert "3 delivered, 0 left" in done.stdout
            assert [message["type"] for message in received()] == ["identify", "track", "track"]

    def test_it_is_short_enough_to_open_the_readme(self) -> None:
        assert len((EXAMPLES / "quickstart.py").read_text().splitlines()) <= 25


@contextmanager
def started_endpoint() -> Iterator[tuple[str, Callable[[], list[dict[str, Any]]]]]:
    """The URL of an endpoint in a child process, and a function that returns what it received."""
    command = [sys.executable, "-m", "segment_async.devserver", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as endpoint:
        try:
            assert endpoint.stdout is not None
            url = endpoint.stdout.readline().removeprefix("Listening on ").strip()

            def received() -> list[dict[str, Any]]:
                with urlopen(f"{url}/_dev/events", timeout=10) as answer:
                    return [event["message"] for event in json.load(answer)["events"]]

            yield url, received
        finally:
            endpoint.terminate()
