"""The transport: the result of each fault of network, TLS and response, what is sent, and that no secret is shown.

The servers are real ones on loopback. What a client does after a fault is tested elsewhere.
"""

import asyncio
import gc
import math
import os
import socket
import ssl
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from segment_async import Client, HTTPTransport, OAuth, Response, TransportError
from segment_async._http.transport import MAX_RESPONSE_BYTES
from segment_async._http.user_agent import USER_AGENT
from tests.support import faults
from tests.support.exchange import OK_BODY, Exchange
from tests.support.fault_server import FaultServer, Script
from tests.support.faults import OnRequest, Step, answer
from tests.support.private_ca import PrivateCA

KEY = "THE-WRITE-KEY"
TOKEN = "THE-TOKEN"
PASSWORD = "THE-PASSWORD"
BODY = b'{"batch":[{"type":"track"}],"sentAt":"now","writeKey":"%s"}' % KEY.encode()
HEADERS = {"Content-Type": "application/json", "User-Agent": "test/1", "Authorization": f"Bearer {TOKEN}"}
# Long enough for loopback, short enough to wait for.
SHORT = 0.25

Result = Response | TransportError


@asynccontextmanager
async def transport_to(server: FaultServer, **options: object) -> AsyncIterator[HTTPTransport]:
    transport = HTTPTransport(f"{server.url}/v1/batch", **{"timeout": 5.0, **options})  # type: ignore[arg-type]
    try:
        yield transport
    finally:
        await transport.aclose()


async def attempt(transport: HTTPTransport, body: bytes = BODY, headers: Mapping[str, str] = HEADERS) -> Result:
    try:
        return await transport.send(body, headers)
    except TransportError as error:
        return error


def meet(
    script: Script, *, sends: int = 1, up: bool = True, tls: ssl.SSLContext | None = None, **options: object
) -> tuple[list[Result], FaultServer]:
    """The results of so many sends in a row, and the server that received them."""

    async def main() -> tuple[list[Result], FaultServer]:
        async with FaultServer(script, tls=tls, up=up) as server, transport_to(server, **options) as transport:
            return [await attempt(transport) for _ in range(sends)], server

    return asyncio.run(main())


def error_of(script: Script, **options: object) -> TransportError:
    results, _ = meet(script, **options)  # type: ignore[arg-type]
    assert isinstance(results[-1], TransportError), results
    return results[-1]


def answer_to(script: Script, **options: object) -> Response:
    results, _ = meet(script, **options)  # type: ignore[arg-type]
    assert isinstance(results[-1], Response), results
    return results[-1]


def chain(error: BaseException) -> Iterator[BaseException]:
    for next_one in (error.__cause__, error.__context__):
        if next_one is not None:
            yield next_one
            yield from chain(next_one)


def our_locals(error: BaseException) -> Iterator[str]:
    """What a traceback with locals shows of the frames within the package."""
    trace = error.__traceback__
    while trace is not None:
        if "segment_async" in trace.tb_frame.f_code.co_filename:
            yield from map(repr, trace.tb_frame.f_locals.values())
        trace = trace.tb_next


def assert_tells_no_secret(error: TransportError) -> None:
    shown = [str(error), repr(error), repr(error.args), repr(vars(error)), *our_locals(error)]
    for secret in (KEY, TOKEN, PASSWORD):
        assert not [text for text in shown if secret in text]
    assert not [link for link in chain(error) if type(link).__module__.startswith("aiohttp")]


def half_a_head() -> OnRequest:
    return faults.raw(b"HTTP/1.1 200 OK\r\nContent-Le")


NO_ANSWER: Mapping[str, Callable[[], Step]] = {
    "FIN on accept": faults.fin_on_accept,
    "RST on accept": faults.rst_on_accept,
    "never reads": faults.never_read,
    "silence": faults.silence,
    "answer lost, RST": faults.lose_answer,
    "answer lost, FIN": lambda: faults.lose_answer(politely=True),
    "garbage": faults.garbage,
    "half a head": half_a_head,
    "reset in the body": lambda: faults.reset_in_body(after=10),
    "huge headers": faults.huge_headers,
    "mis-chunked": faults.mis_chunked,
    "status no number": lambda: faults.raw(b"HTTP/1.1 abc OK\r\n\r\n"),
    "HTTP/0.9": lambda: faults.raw(b"hello\r\n\r\n"),
    "NUL in a header": lambda: faults.raw(b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n"),
    "two lengths": lambda: faults.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n"),
    "length below zero": lambda: faults.raw(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
    "only a 100": lambda: faults.informational(100, then=faults.silence()),
}


class TestPlainHTTP:
    """The write key is in each request."""

    @pytest.mark.parametrize(
        ("url", "proxy", "is_readable"),
        [
            ("https://api.segment.io/v1/batch", None, False),
            ("https://api.segment.io/v1/batch", "http://proxy.example:3128", False),
            ("http://127.0.0.1:8765/v1/batch", None, False),
            ("http://localhost/v1/batch", "http://127.0.0.1:3128", False),
            ("http://api.segment.io/v1/batch", None, True),
            ("HTTP://api.segment.io/v1/batch", None, True),
            ("http://10.0.0.1/v1/batch", None, True),
            ("http://localhost/v1/batch", "http://proxy.example:3128", True),
            ("http://localhost/v1/batch", f"http://user:{PASSWORD}@proxy.example:3128", True),
        ],
    )
    def test_it_has_to_be_allowed(self, url: str, proxy: str | None, *, is_readable: bool) -> None:
        transport = HTTPTransport(url, proxy=proxy)
        assert transport.is_readable is is_readable
        Client("key", transport=transport, allow_http=True)
        if not is_readable:
            Client("key", transport=transport)
            return
        with pytest.raises(ValueError, match="allow_http=True") as caught:
            Client("key", transport=transport)
        assert PASSWORD not in str(caught.value)

    def test_a_proxy_s_too(self) -> None:
        with pytest.raises(ValueError, match="allow_http=True"):
            Client("key", host="http://localhost:8765", proxy="http://proxy.example:3128")
        Client("key", host="http://localhost:8765", proxy="http://proxy.example:3128", allow_http=True)
        Client("key", proxy="http://proxy.example:3128")

    def test_and_the_token_server_s(self) -> None:
        with pytest.raises(ValueError, match="allow_http=True"):
            Client(
                "key",
                oauth=OAuth("id", "-----BEGIN PRIVATE KEY-----", "key-id", auth_server="http://localhost:8766"),
                proxy="http://proxy.example:3128",
            )


class TestNoUsableAnswer:
    @pytest.mark.parametrize("name", sorted(NO_ANSWER))
    def test_the_request_may_have_been_sent(self, name: str) -> None:
        error = error_of([NO_ANSWER[name]()], timeout=SHORT)
        assert error.maybe_sent
        assert not error.stale_connection
        assert_tells_no_secret(error)

    def test_refused_nothing_was_sent(self) -> None:
        error = error_of([], up=False)
        assert not error.maybe_sent
        assert not error.stale_connection
        assert_tells_no_secret(error)

    def test_refused_and_then_up(self) -> None:
        async def main() -> None:
            async with FaultServer(up=False) as server, transport_to(server) as transport:
                assert isinstance(await attempt(transport), TransportError)
                server.come_up()
                assert isinstance(await attempt(transport), Response)

        asyncio.run(main())

    @pytest.mark.parametrize("line", [b"X: y\r\n", b"X-%d: y\r\n", b"Set-Cookie: a=%d\r\n"])
    def test_headers_without_an_end_are_not_kept(self, line: bytes) -> None:
        sent = 0

        async def act(exchange: Exchange) -> None:
            nonlocal sent
            await exchange.write(b"HTTP/1.1 200 OK\r\n")
            while sent < 16 * 2**20:
                part = b"".join(line % number if b"%" in line else line for number in range(sent, sent + 4_096))
                await exchange.write(part)
                sent += len(part)

        error = error_of([OnRequest(act)])
        assert error.maybe_sent
        # What is on the way when the client closes the connection is in the buffers of sockets.
        assert sent < 16 * 2**20

    def test_the_text_names_the_cause(self) -> None:
        error = error_of([faults.silence()], timeout=SHORT)
        assert (str(error), error.timed_out) == ("no response within 0.25 s", True)
        assert "reset" in str(error_of([faults.lose_answer()]))
        assert "no connection" in str(error_of([], up=False))


def sent_in_two(head: bytes, rest: bytes) -> OnRequest:
    """The head of a response and, after a while in which it has been read, the rest."""

    async def act(exchange: Exchange) -> None:
        await exchange.write(head)
        await asyncio.sleep(0.05)
        await exchange.write(rest)
        exchange.close()

    return OnRequest(act)


def cut_while_read() -> OnRequest:
    """Part of a body, and a reset after a while in which it has been read; sent at once, the reset may overtake it."""

    async def act(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + OK_BODY)
        await asyncio.sleep(0.05)
        exchange.reset()

    return OnRequest(act)


class TestUsableAnswer:
    """The status is known: no fault after it makes the response unusable."""

    @pytest.mark.parametrize(
        ("step", "body"),
        [
            (faults.short_body, OK_BODY),
            (cut_while_read, OK_BODY),
            (faults.slow_bytes, OK_BODY),
            (faults.endless_body, b" " * MAX_RESPONSE_BYTES),
            (faults.bad_gzip, b""),
            (faults.gzip_bomb, bytes(MAX_RESPONSE_BYTES)),
        ],
    )
    def test_a_body_gone_wrong(self, step: Callable[[], Step], body: bytes) -> None:
        response = answer_to([step()])
        assert (response.status, response.body) == (200, body)

    @pytest.mark.parametrize("rest", [b"zz\r\n", b"5\r\nhello world\r\n", b"5\r\nhel", b""])
    def test_chunks_gone_wrong_after_the_head(self, rest: bytes) -> None:
        head = b"HTTP/1.1 503 Odd\r\nTransfer-Encoding: chunked\r\n\r\n"
        # aiohttp does not always notice; then the time limit expires.
        assert answer_to([sent_in_two(head, rest)], timeout=SHORT).status == 503

    def test_a_body_that_never_ends_within_the_time(self) -> None:
        step = faults.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", then=lambda exchange: None)
        response = answer_to([step, faults.silence()], timeout=SHORT)
        assert response.status == 200

    @pytest.mark.parametrize("status", [99, 101, 204, 207, 304, 400, 413, 429, 500, 503, 599, 600, 999])
    def test_any_status_is_returned(self, status: int) -> None:
        if status == 101:
            assert answer_to([faults.switch_protocols()]).status == 101
        else:
            assert answer_to([answer(status, {"X-Odd": "1"})]).headers["x-odd"] == "1"

    @pytest.mark.parametrize("statuses", [(100,), (103,), (100, 103, 102), (100,) * 50])
    def test_informational_answers_before_the_answer(self, statuses: Sequence[int]) -> None:
        assert answer_to([faults.informational(*statuses)]).body == OK_BODY

    def test_all_values_of_a_repeated_header_are_returned(self) -> None:
        doubled = CIMultiDict([("Retry-After", "1"), ("Retry-After", "2")])
        headers = answer_to([answer(429, doubled)]).headers
        assert [value for name, value in headers.items() if name == "Retry-After"] == ["1", "2"]

    def test_a_server_that_reads_slowly(self) -> None:
        assert answer_to([faults.read_slowly(piece=7, pause=0.001)]).status == 200

    @pytest.mark.parametrize("length", [MAX_RESPONSE_BYTES - 1, MAX_RESPONSE_BYTES, MAX_RESPONSE_BYTES + 1, 1_000_000])
    def test_answers_are_read_to_64_kib(self, length: int) -> None:
        results, server = meet([answer(200, {}, b"x" * length)], sends=2)
        assert isinstance(results[0], Response)
        assert results[0].body == b"x" * min(length, MAX_RESPONSE_BYTES)
        # A body far from its end is not read to the end.
        assert server.connections == (1 if length < 1_000_000 else 2)


class TestConnections:
    def test_one_connection_serves_many_requests(self) -> None:
        _, server = meet([], sends=5)
        assert server.connections == 1

    @pytest.mark.parametrize("body", [b"", OK_BODY, b"x" * 50_000, b"x" * 5_000_000])
    @pytest.mark.parametrize("status", [500, 503, 599, 600])
    def test_a_connection_that_answered_5xx_is_not_used_again(self, status: int, body: bytes) -> None:
        _, server = meet([answer(status, {}, body), answer(400), answer(200)], sends=3)
        assert server.connections == 2

    @pytest.mark.parametrize(
        "script",
        [[faults.close_on_reuse()], [answer(), faults.lose_answer()], [answer(), faults.lose_answer(politely=True)]],
    )
    def test_a_pooled_connection_closed_just_before_reuse_is_called_stale(self, script: Sequence[Step]) -> None:
        first, second, third = meet(script, sends=3)[0]
        assert isinstance(first, Response)
        assert isinstance(second, TransportError)
        assert second.stale_connection
        # A byte of it may have been sent.
        assert second.maybe_sent
        assert isinstance(third, Response)
        assert_tells_no_secret(second)

    def test_silence_on_a_pooled_connection_is_not_stale(self) -> None:
        results, _ = meet([answer(), faults.silence()], sends=2, timeout=SHORT)
        assert isinstance(results[1], TransportError)
        assert not results[1].stale_connection

    def test_a_cancelled_request_closes_its_connection(self) -> None:
        async def main() -> None:
            async with FaultServer([faults.silence()]) as server, transport_to(server) as transport:
                sending = asyncio.create_task(transport.send(BODY, HEADERS))
                await server.wait_for_requests(1)
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
                assert isinstance(await attempt(transport), Response)
                assert server.connections == 2

        asyncio.run(main())

    def test_closing_ends_a_request_under_way(self) -> None:
        async def main() -> None:
            async with FaultServer([faults.silence()]) as server, transport_to(server) as transport:
                sending = asyncio.create_task(attempt(transport))
                await server.wait_for_requests(1)
                await transport.aclose()
                result = await sending
                assert isinstance(result, TransportError)
                assert result.maybe_sent

        asyncio.run(main())

    def test_abandoned_twice(self) -> None:
        transport = HTTPTransport("https://api.segment.io/v1/batch")
        transport.abandon()
        transport.abandon()

    def test_close_is_idempotent_and_not_final(self) -> None:
        async def main() -> None:
            async with FaultServer() as server, transport_to(server) as transport:
                await transport.aclose()
                assert isinstance(await attempt(transport), Response)
                await transport.aclose()
                await transport.aclose()
                assert isinstance(await attempt(transport), Response)
                assert server.connections == 2

        asyncio.run(main())


@contextmanager
def served_from_a_thread() -> Iterator[FaultServer]:
    """A server that outlives the loops of a test."""
    ready, over = threading.Event(), threading.Event()
    kept: list[FaultServer] = []

    async def serve() -> None:
        async with FaultServer() as server:
            kept.append(server)
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield kept[0]
    finally:
        over.set()
        thread.join()


class TestLoops:
    def test_each_loop_has_connections_of_its_own(self) -> None:
        async def send(transport: HTTPTransport) -> int:
            return (await transport.send(BODY, HEADERS)).status

        with served_from_a_thread() as server:
            transport = HTTPTransport(f"{server.url}/v1/batch")
            with warnings.catch_warnings():
                # asyncio's warning about sockets that belonged to a closed loop.
                warnings.simplefilter("ignore", ResourceWarning)
                assert [asyncio.run(send(transport)) for _ in range(3)] == [200] * 3
                asyncio.run(transport.aclose())
                gc.collect()
            assert server.connections == 3

    @pytest.mark.parametrize("other", ["kept", "new"])
    def test_loops_that_take_turns_leave_no_sockets_open(self, other: str) -> None:
        """On AWS Lambda, one loop is kept for the process and used in turn with another one or with `asyncio.run`."""

        async def send(transport: HTTPTransport, *, close: bool = False) -> None:
            assert (await transport.send(BODY, HEADERS)).status == 200
            if close:
                await transport.aclose()

        def open_sockets() -> int:
            gc.collect()
            links = (Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
            return sum(link.is_symlink() and str(link.readlink()).startswith("socket:") for link in links)

        with served_from_a_thread() as server, warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            transport = HTTPTransport(f"{server.url}/v1/batch")
            with asyncio.Runner() as one, asyncio.Runner() as two:
                counts = []
                for _ in range(20):
                    one.run(send(transport))
                    if other == "kept":
                        two.run(send(transport))
                    else:
                        asyncio.run(send(transport, close=True))
                    counts.append(open_sockets())
                # One per turn would be twenty; the server may close its ends a little late.
                assert counts[-1] < counts[1] + 10, counts
                one.run(transport.aclose())
                two.run(asyncio.sleep(0))

    def test_threads_with_a_loop_each_do_not_cut_each_other_off(self) -> None:
        async def main() -> None:
            over = asyncio.Event()

            async def wait(exchange: Exchange) -> None:
                await over.wait()
                await exchange.answer(200, {}, OK_BODY)

            async with FaultServer([OnRequest(wait)]) as server, transport_to(server) as transport:
                sending = asyncio.create_task(attempt(transport))
                await server.wait_for_requests(1)
                assert isinstance(await asyncio.to_thread(asyncio.run, attempt(transport)), Response)
                over.set()
                assert isinstance(await sending, Response)

        with warnings.catch_warnings():
            # asyncio's warning about the socket that belonged to a closed loop.
            warnings.simplefilter("ignore", ResourceWarning)
            asyncio.run(main())
            gc.collect()

    def test_a_request_whose_loop_never_runs_again_ends_without_an_error(self) -> None:
        """As a program that ends does with it: the error would be shown, or logged as a failure of a delivery."""
        with socket.create_server(("127.0.0.1", 0)) as server, warnings.catch_warnings():
            # asyncio's warning about the socket that belonged to a closed loop.
            warnings.simplefilter("ignore", ResourceWarning)
            server.setblocking(False)
            transport = HTTPTransport(f"http://127.0.0.1:{server.getsockname()[1]}/v1/batch")
            loop = asyncio.new_event_loop()
            loop.set_exception_handler(lambda *_: None)
            sending = transport.send(BODY, HEADERS)
            task = loop.create_task(sending)
            connection, _ = loop.run_until_complete(loop.sock_accept(server))
            with connection:
                assert loop.run_until_complete(loop.sock_recv(connection, 4)) == b"POST"
                loop.close()
                sending.close()
            del task, loop
            asyncio.run(transport.aclose())
            gc.collect()

    def test_closed_before_its_loop_ends_it_leaves_nothing_behind(self) -> None:
        async def send_and_close(transport: HTTPTransport) -> None:
            await transport.send(BODY, HEADERS)
            await transport.aclose()

        with served_from_a_thread() as server:
            transport = HTTPTransport(f"{server.url}/v1/batch")
            for _ in range(2):
                asyncio.run(send_and_close(transport))
            gc.collect()


class TestTLS:
    ca = PrivateCA()

    @pytest.mark.parametrize(
        ("certificate", "cause"),
        [("self_signed", "self-signed"), ("expired", "expired"), ("wrong_name", "not valid for '127.0.0.1'")],
    )
    def test_a_bad_certificate(self, certificate: str, cause: str) -> None:
        tls: ssl.SSLContext = getattr(self.ca, certificate)()
        results, server = meet([], tls=tls, ssl_context=self.ca.client_context())
        assert isinstance(results[0], TransportError)
        assert not results[0].maybe_sent
        assert cause in str(results[0])
        assert not server.requests
        assert_tells_no_secret(results[0])

    def test_a_private_authority_is_not_trusted_by_default(self) -> None:
        assert not error_of([], tls=self.ca.good()).maybe_sent

    def test_a_private_authority_is_trusted_through_the_context(self) -> None:
        assert answer_to([], tls=self.ca.good(), ssl_context=self.ca.client_context()).status == 200

    def test_a_stalled_handshake(self) -> None:
        error = error_of([faults.never_read()], tls=self.ca.good(), ssl_context=self.ca.client_context(), timeout=SHORT)
        assert not error.maybe_sent

    @pytest.mark.parametrize(
        ("step", "usable"), [(cut_while_read, True), (faults.short_body, True), (faults.lose_answer, False)]
    )
    def test_cut(self, step: Callable[[], Step], *, usable: bool) -> None:
        results, _ = meet([step()], tls=self.ca.good(), ssl_context=self.ca.client_context())
        assert isinstance(results[0], Response) is usable
        if isinstance(results[0], TransportError):
            assert results[0].maybe_sent
            assert_tells_no_secret(results[0])

    def test_the_certificate_changes_while_running(self) -> None:
        async def main() -> None:
            context = self.ca.client_context()
            async with (
                FaultServer(tls=self.ca.good()) as server,
                transport_to(server, ssl_context=context) as transport,
            ):
                assert isinstance(await attempt(transport), Response)
                await server.change_certificate(self.ca.self_signed())
                result = await attempt(transport)
                while isinstance(result, TransportError) and result.stale_connection:
                    result = await attempt(transport)
                assert isinstance(result, TransportError)
                assert not result.maybe_sent
                assert len(server.requests) == 1
                await server.change_certificate(self.ca.good())
                assert isinstance(await attempt(transport), Response)

        asyncio.run(main())

    @pytest.mark.parametrize("mode", [ssl.CERT_NONE, ssl.CERT_REQUIRED])
    def test_a_context_that_does_not_verify_is_refused(self, mode: ssl.VerifyMode) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = mode
        with pytest.raises(ValueError, match="ssl_context must verify"):
            HTTPTransport("https://api.segment.io/v1/batch", ssl_context=context)

    def test_a_value_of_another_type_is_refused(self) -> None:
        with pytest.raises(ValueError, match="ssl_context must verify"):
            HTTPTransport("https://api.segment.io/v1/batch", ssl_context=False)  # type: ignore[arg-type]


class TestRequest:
    def test_what_is_sent(self) -> None:
        _, server = meet([])
        request = server.requests[0]
        assert (request.method, request.target, request.body) == ("POST", "/v1/batch", BODY)
        assert request.headers["Authorization"] == HEADERS["Authorization"]
        assert request.headers["Content-Type"] == "application/json"
        assert request.headers["User-Agent"].startswith("test/1 aiohttp/")
        assert request.headers["Content-Length"] == str(len(BODY))
        assert "Accept-Encoding" not in request.headers

    def test_a_request_without_a_user_agent_gets_ours(self) -> None:
        """Requests for OAuth tokens set none."""

        async def main() -> FaultServer:
            async with FaultServer() as server, transport_to(server) as transport:
                await transport.send(BODY, {})
            return server

        assert asyncio.run(main()).requests[0].headers["User-Agent"] == f"{USER_AGENT} aiohttp/{aiohttp.__version__}"

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirect_is_not_followed(self, status: int) -> None:
        async def main() -> None:
            async with FaultServer() as second, FaultServer([faults.redirect(second.url, status)]) as first:
                async with transport_to(first) as transport:
                    response = await transport.send(BODY, HEADERS)
                assert (response.status, response.headers["location"]) == (status, second.url)
                assert not second.connections

        asyncio.run(main())

    def test_cookies_are_not_kept(self) -> None:
        async def main() -> None:
            async with FaultServer([answer(200, {"Set-Cookie": "a=b"})]) as server:
                # By name: cookies of a bare IP address are not kept in any case.
                transport = HTTPTransport(server.url.replace("127.0.0.1", "localhost") + "/v1/batch")
                for _ in range(2):
                    await transport.send(BODY, HEADERS)
                await transport.aclose()
                assert "Cookie" not in server.requests[1].headers

        asyncio.run(main())

    def test_the_environment_is_ignored(self, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login a password b\n")
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv("NETRC", str(netrc))
        _, server = meet([])
        assert server.requests[0].headers["Authorization"] == HEADERS["Authorization"]


class TestProxy:
    def test_a_request_goes_through_it_with_its_credentials(self) -> None:
        async def main() -> None:
            async with FaultServer() as proxy:
                with_password = proxy.url.replace("://", f"://user:{PASSWORD}@")
                transport = HTTPTransport("http://segment.example/v1/batch", proxy=with_password)
                assert (await transport.send(BODY, HEADERS)).status == 200
                await transport.aclose()
                assert proxy.requests[0].target == "http://segment.example/v1/batch"
                assert "Proxy-Authorization" in proxy.requests[0].headers
                assert PASSWORD not in repr(transport)

        asyncio.run(main())

    @pytest.mark.parametrize("up", [True, False])
    def test_a_proxy_that_refuses(self, *, up: bool) -> None:
        async def main() -> TransportError:
            async with FaultServer([answer(407)], up=up) as proxy:
                with_password = proxy.url.replace("://", f"://user:{PASSWORD}@")
                transport = HTTPTransport("https://segment.example/v1/batch", proxy=with_password)
                result = await attempt(transport)
                await transport.aclose()
            assert isinstance(result, TransportError)
            return result

        error = asyncio.run(main())
        assert not error.maybe_sent
        assert ("the proxy answered 407" in str(error)) is up
        assert_tells_no_secret(error)


class TestNames:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Adds a name to the system's resolver, and records each lookup."""
        names: list[str] = []
        import socket

        system = socket.getaddrinfo

        def getaddrinfo(host, port, *args, **kwargs):
            if host == "segment.example":
                names.append(host)
                host = "127.0.0.1"
            return system(host, port, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return names

    def send(self, script: Script, sends: int, **options: float) -> None:
        async def main() -> None:
            async with FaultServer(script) as server:
                transport = HTTPTransport(server.url.replace("127.0.0.1", "segment.example") + "/v1/batch", **options)
                for _ in range(sends):
                    await attempt(transport)
                await transport.aclose()

        asyncio.run(main())

    def test_an_address_is_reused_while_it_connects(self, asked: list[str]) -> None:
        self.send([answer(503), answer(503)], 3)
        assert len(asked) == 1

    @pytest.mark.parametrize("step", [faults.lose_answer, faults.silence])
    def test_the_name_is_resolved_again_after_a_failure(self, asked: list[str], step: Callable[[], Step]) -> None:
        self.send([step()], 2, timeout=SHORT)
        assert len(asked) == 2


class TestRepr:
    @pytest.mark.parametrize(
        "address",
        [
            *("", "https://", "api.segment.io", "ftp://api.segment.io", "https://host:99999", "https://host\x00/"),
            *(f"https://[{PASSWORD}", f"https://user:{PASSWORD}\u2100@host/", f"https://{PASSWORD} @host/"),
        ],
    )
    def test_an_invalid_url_is_refused_and_not_repeated(self, address: str) -> None:
        for name, options in (("url", {"url": address}), ("proxy", {"url": "https://host", "proxy": address})):
            with pytest.raises(ValueError, match=f"{name} must be") as caught:
                HTTPTransport(**options)  # type: ignore[arg-type]
            assert not [link for link in (caught.value, *chain(caught.value)) if PASSWORD in str(link)]

    def test_its_url_must_not_contain_credentials(self) -> None:
        with pytest.raises(ValueError, match="without credentials") as caught:
            HTTPTransport(f"https://user:{PASSWORD}@host/")
        assert PASSWORD not in str(caught.value)

    @pytest.mark.parametrize("timeout", [0, -1, math.nan, 10**400, True, "15", None, timedelta(seconds=1), Decimal(1)])
    def test_a_timeout_is_a_positive_number(self, timeout: float) -> None:
        with pytest.raises(ValueError, match="timeout must be"):
            HTTPTransport("https://host", timeout=timeout)

    @pytest.mark.parametrize("given", ["no", "0", 1, None])
    def test_whether_the_environment_is_trusted_is_true_or_false(self, given: Any) -> None:
        with pytest.raises(ValueError, match="trust_env must be True or False"):
            HTTPTransport("https://host", trust_env=given)

    def test_a_transport_shows_its_host_alone(self) -> None:
        transport = HTTPTransport(f"https://api.segment.io/{KEY}", proxy=f"http://user:{PASSWORD}@proxy.example")
        assert repr(transport) == "<HTTPTransport to api.segment.io>"

    def test_a_response_shows_its_status_alone(self) -> None:
        assert repr(Response(200, {"Set-Cookie": TOKEN}, TOKEN.encode())) == "Response(status=200)"
