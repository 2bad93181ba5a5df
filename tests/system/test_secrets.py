"""Write key, token, proxy password and private key, planted and searched for wherever something shows.

Lives through every kind of fault over real sockets; then every log record at any level, every exception with its
chain and the locals of our frames, and the `repr` of every object of ours are searched, in each form that a secret
takes on the wire. What the faults do to the messages is `test_reality`'s.
"""

import asyncio
import base64
import gc
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import orjson
import pytest

from segment_async import Client, DeliveryError, HTTPTransport, OAuth, Response, RetryPolicy, TransportError
from tests.support import faults
from tests.support.exchange import ReceivedRequest
from tests.support.fault_server import FaultServer
from tests.support.faults import OnRequest, Step, answer
from tests.support.token_server import private_key_pem

KEY = "PLANTED-WRITE-KEY"
TOKEN = "PLANTED-TOKEN"
PASSWORD = "PLANTED-PASSWORD"
SECRETS = (
    KEY,
    base64.b64encode(f"{KEY}:".encode()).decode(),
    TOKEN,
    PASSWORD,
    base64.b64encode(f"user:{PASSWORD}".encode()).decode(),
    *private_key_pem().splitlines()[1:-1],
)
QUICK = RetryPolicy(backoff=0.001, max_backoff=0.002, max_retries=3, max_retry_after=0.002)

STEPS: Mapping[str, Callable[[], Step]] = {
    "FIN on accept": faults.fin_on_accept,
    "RST on accept": faults.rst_on_accept,
    "never reads": faults.never_read,
    "reset in the body": lambda: faults.reset_in_body(after=30),
    "silence": faults.silence,
    "answer lost": faults.lose_answer,
    "closed on reuse": faults.close_on_reuse,
    "garbage": faults.garbage,
    "cut body": faults.cut_body,
    "mis-chunked": faults.mis_chunked,
    "bad gzip": faults.bad_gzip,
    "1 MB of headers": faults.huge_headers,
    "101": faults.switch_protocols,
    "307": lambda: faults.redirect(f"https://user:{PASSWORD}@127.0.0.1:9/{KEY}?token={TOKEN}"),
    **{
        str(status): lambda status=status: answer(status, {"X-Echo": TOKEN}, KEY.encode())  # type: ignore[misc]
        for status in (200, 400, 401, 407, 413, 429, 500)
    },
    "a portal": lambda: answer(200, {"Content-Type": "text/html"}, f"<!doctype html>{KEY}{TOKEN}".encode()),
}


class Watched(HTTPTransport):
    """The real transport; keeps what it raised, as a hook of the application's might."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self.raised: list[BaseException] = []

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        try:
            return await super().send(body, headers)
        except TransportError as error:
            self.raised.append(error)
            raise


class Broken:
    """A transport of the application's own, with a bug."""

    def __init__(self) -> None:
        self.raised: list[BaseException] = []

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        error = ZeroDivisionError(f"{headers['Authorization']} {KEY}")
        self.raised.append(error)
        raise error

    async def aclose(self) -> None:
        raise RuntimeError(KEY)


def shown_by(error: BaseException) -> Iterator[str]:
    """All that a report of an error may show: its text, its chain, and the locals of frames of ours."""
    yield from (str(error), repr(error), repr(error.args), repr(vars(error)))
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if "/segment_async/" in frame.f_code.co_filename:
            yield from map(repr, frame.f_locals.values())
    for link in (error.__cause__, error.__context__):
        if link is not None:
            yield from shown_by(link)


def shown_by_records(records: list[logging.LogRecord]) -> Iterator[str]:
    for record in records:
        yield f"{record.name}: {record.getMessage()}"
        arguments = record.args.values() if isinstance(record.args, Mapping) else record.args or ()
        for argument in arguments:
            if isinstance(argument, BaseException):
                yield from shown_by(argument)
            else:
                yield repr(argument)
        if record.exc_info and record.exc_info[1]:
            yield from shown_by(record.exc_info[1])


def shown_by_objects() -> Iterator[str]:
    """The `repr` of all that is alive and ours."""
    for thing in gc.get_objects():
        kind = type(thing)
        if str(kind.__module__).startswith("segment_async") or issubclass(kind, asyncio.Task):
            yield repr(thing)


def leaks(shown: Iterator[str]) -> list[str]:
    return sorted({text[:300] for text in shown for secret in SECRETS if secret in text})


async def use(client: Client, errors: list[BaseException], most: float) -> Iterator[str]:
    """Give it messages and take what comes, then all that is shown while the client is alive."""
    deliveries = [await client.track("u", "E", {"n": number}) for number in range(4)]
    await client.flush(timeout=most)
    await client.aclose()
    for delivery in deliveries:
        try:
            (await delivery).raise_for_failure()
        except DeliveryError as error:
            errors.append(error)
    return iter([*shown_by_objects(), repr(client.statistics())])


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Every record of every logger, asyncio's and aiohttp's included."""
    caplog.set_level(1)
    caplog.set_level(1, "segment_async")
    return caplog.records


@pytest.mark.parametrize("name", STEPS)
def test_nothing_shows_with_the_key_as_credentials(name: str, records: list[logging.LogRecord]) -> None:
    errors: list[BaseException] = []

    def on_error(error: DeliveryError, _: object) -> None:
        errors.append(error)
        raise error

    async def main() -> list[str]:
        async with FaultServer([STEPS[name]() for _ in range(4)]) as server:
            transport = Watched(f"{server.url}/v1/batch", timeout=0.1)
            client = Client(KEY, transport=transport, flush_at=2, retry=QUICK, on_error=on_error, close_timeout=0.2)
            found = leaks(await use(client, errors, most=1.0))
            errors.extend(transport.raised)
            return found

    assert asyncio.run(main(), debug=True) == []
    assert leaks(text for error in errors for text in shown_by(error)) == []
    assert leaks(shown_by_records(records)) == []


ON_REQUEST = [name for name in STEPS if isinstance(STEPS[name](), OnRequest)]


@pytest.mark.parametrize("where", ["tracking", "tokens"])
@pytest.mark.parametrize("name", ON_REQUEST)
def test_nothing_shows_with_a_token_through_a_proxy(name: str, where: str, records: list[logging.LogRecord]) -> None:
    errors: list[BaseException] = []

    async def main() -> list[str]:
        left = [STEPS[name]() for _ in range(4)]

        def choose(request: ReceivedRequest) -> OnRequest:
            assert "Proxy-Authorization" in request.headers
            for_token = request.target.endswith("/token")
            if left and for_token == (where == "tokens"):
                step = left.pop()
                assert isinstance(step, OnRequest)
                return step
            said = {"access_token": TOKEN, "expires_in": 3_600} if for_token else {"success": True}
            return answer(200, {}, orjson.dumps(said))

        async with FaultServer(choose) as server:
            client = Client(
                KEY,
                host="http://segment.example",
                allow_http=True,
                proxy=server.url.replace("://", f"://user:{PASSWORD}@"),
                oauth=OAuth("the-client", private_key_pem(), "the-key", auth_server="http://auth.example"),
                timeout=0.1,
                flush_at=2,
                retry=QUICK,
                close_timeout=0.2,
                on_error=lambda error, _: errors.append(error),
            )
            return leaks(await use(client, errors, most=1.0))

    assert asyncio.run(main(), debug=True) == []
    assert leaks(text for error in errors for text in shown_by(error)) == []
    assert leaks(shown_by_records(records)) == []


def test_nothing_shows_of_a_proxy_that_is_down(records: list[logging.LogRecord]) -> None:
    errors: list[BaseException] = []

    async def main() -> list[str]:
        async with FaultServer(up=False) as server:
            proxy = server.url.replace("://", f"://user:{PASSWORD}@")
            transport = Watched("https://segment.example/v1/batch", proxy=proxy)
            client = Client(KEY, transport=transport, retry=QUICK, close_timeout=0.2)
            found = leaks(await use(client, errors, most=1.0))
            errors.extend(transport.raised)
            assert transport.raised
            return found

    assert asyncio.run(main()) == []
    assert leaks(text for error in errors for text in shown_by(error)) == []
    assert leaks(shown_by_records(records)) == []


def test_nothing_shows_of_what_a_broken_transport_says(records: list[logging.LogRecord]) -> None:
    errors: list[BaseException] = []
    transport = Broken()

    async def main() -> list[str]:
        client = Client(KEY, transport=transport, retry=QUICK, close_timeout=0.2)
        return leaks(await use(client, errors, most=1.0))

    assert asyncio.run(main()) == []
    assert leaks(shown_by_records(records)) == []
    assert transport.raised
    # Its text is its own; our frames below it tell nothing.
    for error in transport.raised:
        frames = [
            frame
            for frame, _ in traceback.walk_tb(error.__traceback__)
            if "/segment_async/" in frame.f_code.co_filename
        ]
        assert frames
        ours = (repr(value) for frame in frames for value in frame.f_locals.values() if value is not error)
        assert leaks(ours) == []


def frames_of(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    """Of a task that waits: each coroutine that waits for the next one."""
    waiting: Any = task.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None)
        if frame is not None:
            yield frame
        waiting = getattr(waiting, "cr_await", None)


@pytest.mark.parametrize("oauth", [False, True], ids=["key", "token"])
def test_nothing_shows_in_the_frames_that_wait_for_an_answer(oauth: bool) -> None:
    """A debugger shows them, and so does the traceback of whatever cancels them."""

    async def main() -> list[str]:
        async with FaultServer([faults.silence()] * 2) as server:
            credentials = OAuth("id", private_key_pem(), "key-id", auth_server=server.url) if oauth else None
            client = Client(KEY, host=server.url, oauth=credentials, flush_interval=0, close_timeout=0)
            await client.track("u", "E")
            await server.wait_for_requests(1)
            shown = [
                (frame.f_code.co_filename, repr(value))
                for task in asyncio.all_tasks()
                for frame in frames_of(task)
                for value in frame.f_locals.values()
            ]
            await client.aclose()
            return [value[:300] for file, value in shown if "/segment_async/" in file]

    ours = asyncio.run(main())
    # The request is there, and keeps to itself.
    assert "<hidden>" in ours
    assert leaks(iter(ours)) == []
    assert not [value for value in ours if "client_assertion" in value or "eyJ" in value]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_second_origin_receives_nothing_at_all(status: int) -> None:
    async def main() -> tuple[int, int]:
        async with (
            FaultServer() as elsewhere,
            FaultServer(lambda _: faults.redirect(f"{elsewhere.url}/v1/batch", status)) as server,
        ):
            async with Client(KEY, host=server.url, flush_at=1) as client:
                outcomes = [await (await client.track("u", "E")) for _ in range(3)]
            assert {outcome.reason for outcome in outcomes} == {"redirected"}
            assert {outcome.location for outcome in outcomes} == {"127.0.0.1"}
            return len(server.requests), elsewhere.connections

    assert asyncio.run(main()) == (3, 0)


def test_the_search_finds_what_is_there(caplog: pytest.LogCaptureFixture) -> None:
    def leak(key: str) -> None:
        raise ValueError("no text")

    with caplog.at_level(1):
        logging.getLogger("x").debug("%s", {"k": KEY})
    assert leaks(shown_by_records(caplog.records))
    with pytest.raises(ValueError, match="no text") as caught:
        try:
            raise RuntimeError(TOKEN)
        except RuntimeError:
            leak(KEY)
    assert leaks(shown_by(caught.value))
