"""`segment-async relay status|check`, and the verbs of `segment-async spool` on a Redis URL."""

import asyncio
import math
import re
import signal
import socket
from dataclasses import asdict
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from segment_async import Client
from segment_async.cli._relay import relay
from segment_async.cli._spool import spool
from segment_async.relay import RedisSpool, RelayInspector, RelayOptions, run_relay
from segment_async.spool import BatchResult, DeadLetter, Status

from .servers import RealServer

REFUSED = BatchResult(Status.FAILED, "refused", 400, attempts=3, possibly_delivered=True)


def run(command: Any, *arguments: object, code: int = 0, key: str | None = "key") -> str:
    environment = {"SEGMENT_WRITE_KEY": key, "SEGMENT_REDIS_URL": None}
    result = CliRunner().invoke(command, [str(each) for each in arguments], env=environment)
    assert result.exit_code == code, result.output
    return result.output


def test_a_relay_has_the_defaults_of_the_python_interface() -> None:
    given = relay.commands["run"].make_context("run", ["redis://localhost"]).params
    defaults = asdict(RelayOptions(url="redis://localhost", write_key="key"))
    assert {**given, "write_key": "key"} == defaults


def test_a_misspelt_command_is_not_taken_for_a_url() -> None:
    said = run(relay, "statuss", code=2)
    assert "No such command 'statuss'; give check, run, status, or the URL of Redis, such as" in said


@pytest.fixture
def filled(server: RealServer) -> RealServer:
    """Three messages wait, and one is a dead letter."""

    async def fill() -> None:
        held = RedisSpool(server.url)
        async with Client("key", spool=held, deliver=False) as client:
            await client.track("user-1", "Refused", message_id="order-0")
            await held.read(1, 1)
            [message] = (await held.read(1, 1_000)).messages
            await held.settle([message.key], REFUSED, "no such source")
            for number in range(1, 4):
                await client.track(f"user-{number % 2}", "Order Completed", message_id=f"order-{number}")

    asyncio.run(fill())
    return server


class TestRelay:
    def test_status(self, filled: RealServer) -> None:
        shown = dict(line.rsplit(maxsplit=1) for line in run(relay, "status", filled.url).splitlines() if line)
        assert (shown["backlog"], shown["unread"], shown["dead letters"]) == ("3", "3", "1")

    def test_status_of_the_only_key_needs_no_key(self, filled: RealServer) -> None:
        assert "backlog" in run(relay, "status", filled.url, key=None)

    def test_status_of_several_keys_needs_one(self, filled: RealServer) -> None:
        filled.ask("XADD", "segment:{0123456789abcdef}:m", "*", "i", "1", "b", "{}")
        assert "2 write keys" in run(relay, "status", filled.url, key=None, code=1)

    def test_a_server_that_is_not_there(self) -> None:
        assert "Redis cannot be used" in run(relay, "status", "unix:///nowhere/socket", code=1)

    def test_a_server_that_refuses(self, filled: RealServer) -> None:
        filled.ask("ACL", "SETUSER", "stranger", "on", ">PASSWORD", "~*", "-@all", "+ping")
        url = f"unix://stranger@{filled.socket}?password=PASSWORD"
        shown = run(relay, "status", url, code=1)
        assert "Redis refused" in shown
        assert "no permissions" in shown

    def test_check_repairs_and_says_what_is_left(self, filled: RealServer) -> None:
        stream = next(name for name in filled.ask("KEYS", "*") if name.endswith(b":m"))
        filled.ask("XREADGROUP", "GROUP", "relays", "gone", "COUNT", 2, "STREAMS", stream, ">")
        filled.ask("XGROUP", "DELCONSUMER", stream, "relays", "gone")
        shown = run(relay, "check", filled.url, code=1)
        assert "repaired: 2 messages" in shown
        assert "appendonly is off" in shown

    def test_check_says_that_no_relay_runs(self, filled: RealServer) -> None:
        # The one that read here has closed.
        assert "3 messages wait and no relay runs" in run(relay, "check", filled.url, code=1)

    def test_check_of_a_single_message(self, server: RealServer) -> None:
        async def fill() -> None:
            async with Client("key", spool=RedisSpool(server.url), deliver=False) as client:
                await client.track("user-1", "Order Completed")

        asyncio.run(fill())
        assert "1 message waits and no relay runs" in run(relay, "check", server.url, code=1)
        said = run(relay, "check", server.url, code=1, key="misspelt")
        assert "1 message of another write key waits" in said
        assert "if it is of your hosts" in said
        [stream] = [name for name in server.ask("KEYS", "*") if name.endswith(b":m")]
        server.ask("XGROUP", "CREATE", stream, "relays", "0")
        server.ask("XREADGROUP", "GROUP", "relays", "gone", "STREAMS", stream, ">")
        server.ask("XGROUP", "DELCONSUMER", stream, "relays", "gone")
        with RelayInspector(server.url, "key") as inspector:
            assert "1 message belongs to a consumer that was removed" in " ".join(inspector.problems())
        assert "repaired: 1 message of a removed consumer is given" in run(relay, "check", server.url, code=1)

    def test_check_finds_messages_of_another_key_if_there_were_none_of_this_one(self, filled: RealServer) -> None:
        [stream] = [name.decode() for name in filled.ask("KEYS", "*") if name.endswith(b":m")]
        said = f"problem: 3 messages of another write key wait in {stream}, and no relay runs for it: if they are of"
        assert said in run(relay, "check", filled.url, code=1, key="misspelt")
        # As a relay that idles.
        with RelayInspector(filled.url, "misspelt") as inspector:
            own = f"segment:{{{inspector.fingerprint}}}:m"
        filled.ask("XGROUP", "CREATE", own, "relays", "0", "MKSTREAM")
        assert said in run(relay, "check", filled.url, code=1, key="misspelt")
        # One of the other key runs.
        filled.ask("XREADGROUP", "GROUP", "relays", "other", "COUNT", 1, "STREAMS", stream, ">")
        assert "another write key" not in run(relay, "check", filled.url, code=1, key="misspelt")
        filled.ask("XGROUP", "DELCONSUMER", stream, "relays", "other")
        # There was one of this key.
        filled.ask("XADD", own, "*", "i", "1", "b", "{}")
        assert "another write key" not in run(relay, "check", filled.url, code=1, key="misspelt")

    def test_without_a_key_there_is_nothing_to_deliver(self, filled: RealServer) -> None:
        assert "SEGMENT_WRITE_KEY" in run(relay, filled.url, key=None, code=2)


class TestSpool:
    def test_status_is_that_of_the_relay(self, filled: RealServer) -> None:
        # But for the age of the oldest message.
        of_spool, of_relay = (re.sub(r"0:00:\d\d", "", run(cli, "status", filled.url)) for cli in (spool, relay))
        assert of_spool == of_relay

    def test_show(self, filled: RealServer) -> None:
        assert [f"order-{number}" in run(spool, "show", filled.url) for number in range(4)] == [False, True, True, True]

    @pytest.mark.parametrize("body", ["[1]", "null", "no JSON"])
    def test_show_what_nothing_of_ours_wrote(self, filled: RealServer, body: str) -> None:
        [stream] = [name for name in filled.ask("KEYS", "*") if name.endswith(b":m")]
        filled.ask("XADD", stream, "*", "i", "foreign-1", "b", body)
        shown = run(spool, "show", filled.url)
        assert "foreign-1" in shown
        assert "order-3" in shown

    def test_dead(self, filled: RealServer) -> None:
        shown = run(spool, "dead", filled.url)
        assert all(word in shown for word in ("order-0", "Refused", "refused", "400", "3", "yes", "no such source"))
        assert orjson.loads(run(spool, "dead", filled.url, "--id", "order-0"))["event"] == "Refused"

    def test_retry(self, filled: RealServer) -> None:
        assert "1 message put back" in run(spool, "retry", filled.url, "--reason", "refused")
        assert "order-0" not in run(spool, "dead", filled.url)
        assert "order-0" in run(spool, "show", filled.url)

    def test_a_field_that_is_absent_is_no_user(self, filled: RealServer) -> None:
        """Not the one called None, which programs make of a missing id."""
        assert "0 messages erased" in run(spool, "purge", filled.url, "--user", "None", "--yes")
        assert [f"order-{number}" in run(spool, "show", filled.url) for number in range(1, 4)] == [True] * 3

    def test_retry_puts_one_that_fails_again_meanwhile_back_once(self, filled: RealServer) -> None:
        dead = next(name for name in filled.ask("KEYS", "*") if name.endswith(b":dead"))
        [(_, fields)] = filled.ask("XRANGE", dead, "-", "+")
        asked: list[str] = []

        def fails_again(letter: DeadLetter) -> bool:
            filled.ask("XADD", dead, "*", *fields)
            asked.append(letter.message_id)
            assert len(asked) < 10
            return True

        with RelayInspector(filled.url, "key") as inspector:
            assert inspector.retry(fails_again) == 1
        assert asked == ["order-0"]
        assert filled.ask("XLEN", dead) == 1

    def test_retry_leaves_what_is_erased_meanwhile_erased(self, filled: RealServer) -> None:
        with RelayInspector(filled.url, "key") as inspector, RelayInspector(filled.url, "key") as other:
            assert inspector.retry(lambda _letter: other.purge("user-1") > 0) == 0
            assert (inspector.status().dead, inspector.count_of_user("user-1")) == (0, 0)

    def test_retries_at_once_put_a_message_back_once(self, filled: RealServer) -> None:
        with RelayInspector(filled.url, "key") as inspector, RelayInspector(filled.url, "key") as other:
            assert inspector.retry(lambda _letter: other.retry(lambda _letter: True) == 1) == 0
            assert [each.message_id for each in inspector.pending()].count("order-0") == 1

    def test_retry_names_what_matches_nothing(self, filled: RealServer) -> None:
        for options in (["--id", "zzz"], ["--reason", "bogus"]):
            assert f"no dead letter matches {' '.join(options)}" in run(spool, "retry", filled.url, *options, code=1)
        assert "order-0" in run(spool, "dead", filled.url)

    def test_export(self, filled: RealServer) -> None:
        lines = run(spool, "export", filled.url).splitlines()
        assert [orjson.loads(line)["messageId"] for line in lines] == ["order-1", "order-2", "order-3"]
        assert len(run(spool, "export", "--dead", filled.url).splitlines()) == 1

    def test_purge(self, filled: RealServer) -> None:
        assert "3 messages erased" in run(spool, "purge", filled.url, "--user", "user-1", "--yes")
        assert len(run(spool, "export", filled.url).splitlines()) == 1
        assert run(spool, "export", "--dead", filled.url) == ""

    def test_rotate_key_says_what_to_do_instead(self, filled: RealServer) -> None:
        assert "old key" in run(spool, "rotate-key", filled.url, code=2)


NOWHERE = "redis://127.0.0.1:9"


class TestWrongUsage:
    @pytest.mark.parametrize(
        ("option", "value", "said"),
        [
            ("--rate", "0", "--rate"),
            ("--rate", "-1", "--rate"),
            ("--rate", "nan", "--rate"),
            ("--rate", "inf", "--rate"),
            ("--lease", "0", "--lease"),
            ("--lease", "nan", "--lease"),
            ("--lease", "inf", "'--lease': inf is not a number up to 1,000,000,000."),
            ("--lease", "0.0001", "--lease"),
            ("--max-in-flight", "0", "--max-in-flight"),
            ("--max-queue-size", "0", "--max-queue-size"),
            ("--close-timeout", "-1", "--close-timeout"),
            ("--close-timeout", "nan", "--close-timeout"),
            ("--close-timeout", "inf", "--close-timeout"),
            ("--host", "http://example.com", "must use https://"),
            ("--host", "nonsense", "must be an origin"),
            ("--metrics-port", "99999", "--metrics-port"),
            ("--metrics-port", "-1", "--metrics-port"),
        ],
    )
    def test_an_option(self, option: str, value: str, said: str) -> None:
        shown = run(relay, NOWHERE, option, value, code=2)
        assert said in shown
        assert "Traceback" not in shown

    def test_a_port_that_another_program_has(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            shown = run(relay, NOWHERE, "--metrics-port", port, code=1)
        assert f"port {port} of 127.0.0.1 is in use" in shown
        assert "choose another port with --metrics-port" in shown

    @pytest.mark.parametrize("verb", [[], ["run"], ["status"], ["check"]])
    @pytest.mark.parametrize(
        "url",
        ["notaurl", "http://localhost", "redis://:PASSWORD@localhost:99999", "redis://[", "", "redis://localhost/abc"],
    )
    def test_a_malformed_url(self, verb: list[str], url: str) -> None:
        shown = run(relay, *verb, url, code=2)
        assert "rediss://host:6379/0" in shown
        assert "PASSWORD" not in shown

    @pytest.mark.parametrize("verb", ["status", "show", "dead", "retry", "export", "purge"])
    def test_a_malformed_url_of_a_spool(self, verb: str) -> None:
        options = {"retry": ["--all"], "purge": ["--user", "user-1", "--yes"]}.get(verb, [])
        shown = run(spool, verb, "redis://:PASSWORD@localhost/abc", *options, code=2)
        assert "rediss://host:6379/0" in shown
        assert "PASSWORD" not in shown

    @pytest.mark.parametrize("arguments", [[], ["run"], ["--rate", "5"], ["status"], ["check"]])
    def test_no_url(self, arguments: list[str]) -> None:
        assert "set SEGMENT_REDIS_URL" in run(relay, *arguments, code=2)

    def test_a_key_with_white_space(self) -> None:
        assert "no Segment key has" in run(relay, NOWHERE, key="a b", code=2)

    @pytest.mark.parametrize(
        ("option", "value", "said"),
        [
            ("rate", math.nan, "rate and lease must be above zero"),
            ("lease", math.nan, "rate and lease must be above zero"),
            ("lease", math.inf, "lease must be a finite number of seconds"),
            ("lease", 1e308, "lease must be a finite number of seconds"),
            ("lease", 1e16, "below 9e15"),
            ("lease", 0.0001, "0.001 or more"),
            ("close_timeout", math.nan, "close_timeout"),
        ],
    )
    def test_a_number_in_python(self, option: str, value: float, said: str) -> None:
        options = RelayOptions(**{"url": NOWHERE, "write_key": "key", option: value})
        with pytest.raises(ValueError, match=said):
            asyncio.run(run_relay(options))

    @pytest.mark.parametrize("port", [-1, 65_536, 1.5, True, "9090"])
    def test_a_port_in_python(self, port: Any) -> None:
        options = RelayOptions(url=NOWHERE, write_key="key", metrics_port=port)
        with pytest.raises(ValueError, match="metrics_port must be from 0 to 65535"):
            asyncio.run(run_relay(options))

    def test_signals_are_the_applications_again_afterwards(self) -> None:
        async def main() -> list[bool]:
            with pytest.raises(ValueError, match="rate"):
                await run_relay(RelayOptions(url=NOWHERE, write_key="key", rate=0))
            loop = asyncio.get_running_loop()
            return [loop.remove_signal_handler(number) for number in (signal.SIGINT, signal.SIGTERM)]

        assert asyncio.run(main()) == [False, False]

    def test_handlers_of_the_application_are_set_again_afterwards(self) -> None:
        async def main() -> None:
            before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
            assert before[1] is stop
            with pytest.raises(ValueError, match="rate"):
                await run_relay(RelayOptions(url=NOWHERE, write_key="key", rate=0))
            assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

        def stop(*_: Any) -> None:
            pass

        given = signal.signal(signal.SIGTERM, stop)
        try:
            asyncio.run(main())
        finally:
            signal.signal(signal.SIGTERM, given)

    def test_a_signal_that_the_loop_handled_before_ends_the_program_afterwards(self) -> None:
        async def main() -> Any:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)
            with pytest.raises(ValueError, match="rate"):
                await run_relay(RelayOptions(url=NOWHERE, write_key="key", rate=0))
            return signal.getsignal(signal.SIGTERM)

        assert asyncio.run(main()) is signal.SIG_DFL
