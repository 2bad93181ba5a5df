"""The public interface: one list, light to import, and no object on it shows a secret."""

import asyncio
import base64
import inspect
import logging
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

import segment_async
from segment_async import (
    Client,
    HTTPTransport,
    MessageError,
    OAuth,
    Response,
    RetryPolicy,
    TransportError,
    bound,
    messages,
)
from tests.support import faults
from tests.support.fault_server import FaultServer
from tests.support.faults import answer
from tests.support.token_server import private_key_pem
from tests.support.virtual_clock import run
from website import public

# DESIGN's list, in its order.
PUBLIC = (
    *("Client", "Delivery", "Outcome", "Status", "Statistics", "RetryPolicy", "OAuth"),
    *("Transport", "Response", "HTTPTransport", "TransportError"),
    *("bound", "bind", "messages"),
    *("SegmentError", "MessageError", "MessageTooLarge", "QueueFull", "ClientClosed", "DeliveryError"),
    *("SpoolUnavailable", "__version__"),
)
KEY = "THE-WRITE-KEY"
BASIC = base64.b64encode(f"{KEY}:".encode()).decode()
PASSWORD = "THE-PROXY-PASSWORD"
CONTENT = "THE-CONTENT"
PEM = "-----BEGIN PRIVATE KEY-----THE-PRIVATE-KEY"
SECRETS = (KEY, BASIC, PASSWORD, CONTENT, PEM)


class TestTheList:
    def test_it_is_one_list(self) -> None:
        assert sorted(segment_async.__all__) == sorted(PUBLIC)
        assert len(set(segment_async.__all__)) == len(segment_async.__all__)

    def test_nothing_else_looks_public(self) -> None:
        seen = {name for name, thing in vars(segment_async).items() if not name.startswith("_")}
        modules = {name for name in seen if inspect.ismodule(getattr(segment_async, name))}
        assert seen - modules <= set(PUBLIC)

    def test_a_traceback_names_an_error_as_it_is_imported(self) -> None:
        private: set[str] = set()
        for name in public.modules():
            for each in public.names(name):
                thing = getattr(public.module(name), each)
                if inspect.isclass(thing) and issubclass(thing, BaseException):
                    private |= {f"{thing.__module__}.{each}"} if "._" in thing.__module__ else set()
                    assert getattr(public.module(thing.__module__), each) is thing
        assert not private

    def test_everything_on_it_has_a_docstring(self) -> None:
        for name in segment_async.__all__:
            assert name == "__version__" or inspect.getdoc(getattr(segment_async, name)), name

    def test_the_messages_module_has_its_own_list(self) -> None:
        assert all(hasattr(messages, name) for name in messages.__all__)

    def test_the_calls_are_coroutine_functions(self) -> None:
        for name in ("track", "identify", "page", "screen", "group", "alias", "enqueue", "flush", "aclose"):
            assert inspect.iscoroutinefunction(getattr(Client, name)), name
        assert not inspect.iscoroutinefunction(Client.enqueue_nowait)

    @pytest.mark.parametrize(
        ("name", "leading"),
        [
            ("track", ["user_id", "event", "properties"]),
            ("identify", ["user_id", "traits"]),
            ("page", ["user_id", "category", "name", "properties"]),
            ("screen", ["user_id", "category", "name", "properties"]),
            ("group", ["user_id", "group_id", "traits"]),
            ("alias", ["previous_id", "user_id"]),
        ],
    )
    def test_the_leading_arguments_are_optional_and_in_the_official_order(self, name: str, leading: list[str]) -> None:
        parameters = [*inspect.signature(getattr(Client, name)).parameters.values()][1:]
        common = ["anonymous_id", "context", "integrations", "timestamp", "message_id"]
        assert [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY] == leading
        assert [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY] == common
        assert all(parameter.default is None for parameter in parameters)

    def test_options_and_their_defaults(self) -> None:
        key, *parameters = inspect.signature(Client).parameters.values()
        assert (key.name, key.default) == ("write_key", None)
        assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)
        assert {parameter.name: parameter.default for parameter in parameters} == {
            "region": "us",
            "host": None,
            "flush_at": 100,
            "flush_interval": 0.5,
            "max_queue_size": 10_000,
            "max_queue_bytes": 32 * 2**20,
            "overflow": "wait",
            "overflow_timeout": 1.0,
            "max_in_flight": 4,
            "gzip": True,
            "timeout": 15.0,
            "retry": None,
            "close_timeout": 5.0,
            "before_send": None,
            "on_error": None,
            "oauth": None,
            "spool": None,
            "deliver": True,
            "transport": None,
            "proxy": None,
            "ssl_context": None,
            "trust_env": False,
            "allow_http": False,
            "send": True,
            "on_invalid": "raise",
            "default": None,
            "defaults": None,
            "plan": None,
            "on_violation": "warn",
        }

    def test_the_docstring_says_what_none_means(self) -> None:
        entries = re.split(r"\n    (?=\w+: )", inspect.getdoc(Client) or "")
        explained = {entry.partition(":")[0] for entry in entries if "`None`: " in entry}
        options = inspect.signature(Client).parameters.values()
        assert explained >= {option.name for option in options if "None" in str(option.annotation)}


class TestImport:
    def loaded_by(self, program: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; {program}; print(*sys.modules)"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return set(done.stdout.split())

    @pytest.mark.untraced
    def test_what_a_client_a_spool_or_a_single_value_needs_comes_later(self) -> None:
        later = {"hashlib", "ipaddress", "pathlib", "random", "urllib.parse", "segment_async.spool"}
        loaded = self.loaded_by("import asyncio, segment_async") - self.loaded_by("import asyncio")
        assert loaded & later == set()

    @pytest.mark.untraced
    def test_it_is_light(self) -> None:
        heavy = {
            "aiohttp",
            "anyio",
            "jwt",
            "isal",
            "numpy",
            "pydantic",
            "attr",
            "msgspec",
            "multiprocessing",
            "sqlite3",
            "jsonschema_rs",
            "segment_async.plans",
        }
        assert not heavy & self.loaded_by("import segment_async")

    def test_heavy_packages_load_with_the_first_client_and_not_later(self) -> None:
        assert {"aiohttp", "anyio"} <= self.loaded_by("import segment_async; segment_async.Client('key')")

    def test_it_is_typed(self) -> None:
        import importlib.resources

        assert importlib.resources.files(segment_async).joinpath("py.typed").is_file()


def everything_of(thing: object, depth: int = 0) -> Iterator[object]:
    """The objects reachable from an object within a few steps, as a debugger or an error report shows them."""
    yield thing
    if depth > 4 or isinstance(thing, (str, bytes, int, float, type)) or inspect.isroutine(thing):
        return
    inner: list[object] = []
    if isinstance(thing, Mapping):
        inner = [*thing.values()]
    elif isinstance(thing, (list, tuple, set, frozenset)):
        inner = [*thing]
    elif type(thing).__module__.startswith("segment_async"):
        slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        inner = [*vars(thing).values()] if hasattr(thing, "__dict__") else []
        inner += [getattr(thing, name) for name in slots if hasattr(thing, name)]
    for one in inner:
        yield from everything_of(one, depth + 1)


def assert_shows_nothing(*texts: str) -> None:
    for text in texts:
        for secret in SECRETS:
            assert secret not in text, text


class Refuses:
    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        return Response(401, {"X-Echo": headers["Authorization"]}, body)

    async def aclose(self) -> None:
        """There is nothing to close."""


class TestSecrets:
    def test_no_object_shows_any(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)

        async def main() -> list[str]:
            shown: list[str] = []
            told: list[object] = []
            client = Client(
                KEY, transport=Refuses(), gzip=False, on_error=lambda error, _: told.append(error), flush_interval=60
            )
            async with client:
                with bound(user_id="u", context={"content": CONTENT}):
                    deliveries = [await client.track(event="e", properties={"a": CONTENT}) for _ in range(3)]
                    shown += our_reprs(client)
                    await client.flush()
                    shown += our_reprs(client)
                for delivery in deliveries:
                    shown += [repr(delivery), str(delivery), repr(await delivery)]
                with pytest.raises(segment_async.DeliveryError) as caught:
                    delivery.outcome.raise_for_failure()  # type: ignore[union-attr]
                shown += [repr(caught.value), str(caught.value), repr(client.statistics())]
            return [*shown, *map(repr, told), *map(str, told)]

        assert_shows_nothing(*run(main()), caplog.text)

    def test_no_option_shows_any(self) -> None:
        transport = HTTPTransport("https://api.segment.io/v1/batch", proxy=f"http://user:{PASSWORD}@proxy.example")
        oauth = OAuth("client-id", PEM, "key-id")
        client = Client(KEY, proxy=f"http://user:{PASSWORD}@proxy.example")
        of_token = Client(KEY, oauth=OAuth("client-id", private_key_pem(), "key-id"))
        assert_shows_nothing(*map(repr, (transport, oauth, client, of_token, RetryPolicy())), *our_reprs(client))
        shown = our_reprs(of_token)
        assert_shows_nothing(*shown)
        # A line of the key.
        assert private_key_pem().splitlines()[1] not in "".join(shown)

    def test_a_key_that_cannot_be_used_is_refused_without_it(self) -> None:
        with pytest.raises(ValueError, match="client_key") as refusal:
            Client(KEY, oauth=OAuth("client-id", PEM, "key-id"))
        assert_shows_nothing("".join(traceback.format_exception(refusal.value)))

    @pytest.mark.parametrize("step", [faults.lose_answer(), faults.garbage(), answer(401), answer(307), answer(200)])
    @pytest.mark.parametrize("gzip", [False, True])
    def test_no_run_over_the_network_logs_any(
        self, step: faults.OnRequest, caplog: pytest.LogCaptureFixture, *, gzip: bool
    ) -> None:
        caplog.set_level(logging.DEBUG)

        async def main() -> None:
            policy = RetryPolicy(max_retries=1, backoff=0.001)
            async with FaultServer([step, step]) as server:
                async with Client(KEY, host=server.url, gzip=gzip, retry=policy) as client:
                    await client.track("u", "e", {"a": CONTENT})
                    await client.flush()

        asyncio.run(main())
        assert_shows_nothing(caplog.text)

    @pytest.mark.parametrize(
        "options",
        [
            {"host": f"https://user:{PASSWORD}@api.segment.io"},
            {"host": f"https://user:{PASSWORD}\u2100@api.segment.io"},
            {"host": f"http://api.segment.io/{PASSWORD}"},
            {"proxy": f"http://user:{PASSWORD}@proxy.example:port"},
            {"region": "uk"},
            {"flush_at": 0},
            {"overflow": "drop"},
        ],
    )
    def test_no_refusal_of_an_option_repeats_any(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError) as caught:
            Client(KEY, **options)
        assert_shows_nothing(str(caught.value), repr(caught.value), repr(caught.value.__context__))

    @pytest.mark.parametrize("key", ["", "  ", f"{KEY}\n{KEY}", f"{KEY} {KEY}", f"{KEY}:", "ключ" + KEY, 5, None])
    def test_no_refusal_of_a_key_repeats_it(self, key: Any) -> None:
        with pytest.raises(ValueError) as caught:
            Client(key)
        assert_shows_nothing(str(caught.value))

    def test_white_space_around_a_key_is_stripped(self) -> None:
        async def main() -> str:
            async with FaultServer() as server:
                async with Client(f" {KEY}\r\n", host=server.url) as client:
                    await client.track("u", "e")
                return server.requests[0].headers["Authorization"]

        assert asyncio.run(main()) == f"Basic {BASIC}"

    def test_no_refusal_of_a_message_repeats_its_content(self) -> None:
        async def main() -> None:
            async with Client(KEY, send=False) as client:
                for properties in ([CONTENT], {"a": {CONTENT}, "b": object()}, {"a": CONTENT * 4_000}):
                    with pytest.raises(MessageError) as caught:
                        await client.track("u", "e", properties)  # type: ignore[arg-type]
                    assert_shows_nothing(str(caught.value), repr(caught.value), repr(caught.value.__context__))

        run(main())

    def test_no_transport_error_that_a_user_raises_is_logged_with_its_text(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Breaks:
            async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
                raise RuntimeError(headers["Authorization"])

            async def aclose(self) -> None:
                raise RuntimeError(KEY)

        async def main() -> None:
            async with Client(KEY, transport=Breaks(), retry=RetryPolicy(max_retries=1)) as client:
                await client.track("u", "e")
                await client.flush()

        run(main())
        assert "transport raised" in caplog.text
        assert_shows_nothing(caplog.text)

    def test_a_transport_error_contains_only_its_arguments(self) -> None:
        assert vars(TransportError("down", maybe_sent=True)) == {
            "maybe_sent": True,
            "stale_connection": False,
            "timed_out": False,
        }


def our_reprs(client: Client) -> list[str]:
    """The `repr` of every object of this package that is reachable from a client."""
    things = [thing for thing in everything_of(client) if type(thing).__module__.startswith("segment_async")]
    assert len(things) > 5
    return [repr(thing) for thing in things]
