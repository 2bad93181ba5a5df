"""The fault server does to a client what each step says: seen with raw sockets, and with aiohttp where that matters."""

import asyncio
import gc
import gzip
import io
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import orjson
import pytest
from multidict import CIMultiDict

from tests.support import faults
from tests.support.exchange import OK_BODY
from tests.support.fault_server import FaultServer, Script
from tests.support.private_ca import PrivateCA

BODY = orjson.dumps({"batch": [{"type": "track", "messageId": "id-1"}], "sentAt": "now", "writeKey": "k"})
REQUEST = b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


def serve(script: Script, client: Callable[[FaultServer], Awaitable[None]], *, up: bool = True) -> FaultServer:
    """Run a client against a script, within ten seconds, and hand back the server for what it kept."""

    async def main() -> FaultServer:
        async with asyncio.timeout(10), FaultServer(script, up=up) as server:
            await client(server)
        return server

    return asyncio.run(main())


async def connect(server: FaultServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(server.url.rsplit(":", 1)[1]))


async def exchange(server: FaultServer, request: bytes = REQUEST) -> bytes:
    """Send a request on a connection of its own, and read what comes until the server ends it."""
    reader, writer = await connect(server)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()


async def ask(server: FaultServer, request: bytes = REQUEST) -> bytes:
    """Send a request and read one answer of the usual kind, without waiting for the end."""
    reader, writer = await connect(server)
    try:
        writer.write(request)
        return await read_answer(reader)
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


async def post(server: FaultServer, session: aiohttp.ClientSession) -> int:
    async with session.post(f"{server.url}/v1/batch", data=BODY, allow_redirects=False) as response:
        await response.read()
        return response.status


def reset(script: Script, request: bytes = REQUEST) -> FaultServer:
    async def client(server: FaultServer) -> None:
        with pytest.raises(ConnectionResetError):
            await exchange(server, request)

    return serve(script, client)


def received(script: Script, request: bytes = REQUEST) -> bytes:
    answers: list[bytes] = []

    async def client(server: FaultServer) -> None:
        answers.append(await exchange(server, request))

    serve(script, client)
    return answers[0]


def test_a_request_is_answered_and_kept() -> None:
    async def client(server: FaultServer) -> None:
        async with aiohttp.ClientSession() as session:
            assert [await post(server, session) for _ in range(3)] == [200, 200, 200]

    server = serve([], client)
    assert [request.connection for request in server.requests] == [1, 1, 1]
    request = server.requests[0]
    assert (request.method, request.target, request.status) == ("POST", "/v1/batch", 200)
    assert request.headers["content-length"] == str(len(BODY))
    assert (request.body, request.json["writeKey"]) == (BODY, "k")
    assert server.arrivals[0].ids == ["id-1"]
    assert server.taken == {"id-1": [{"type": "track", "messageId": "id-1"}] * 3}


async def in_pieces(text: bytes) -> AsyncIterator[bytes]:
    yield text[:20]
    yield text[20:]


def test_chunked_and_compressed_bodies_are_read() -> None:
    async def client(server: FaultServer) -> None:
        packed, headers = in_pieces(gzip.compress(BODY)), {"Content-Encoding": "gzip"}
        async with aiohttp.ClientSession() as session, session.post(server.url, data=packed, headers=headers) as answer:
            assert answer.status == 200

    server = serve([], client)
    assert server.requests[0].headers["Transfer-Encoding"] == "chunked"
    assert server.arrivals[0].ids == ["id-1"]


def test_a_script_goes_step_by_step() -> None:
    async def client(server: FaultServer) -> None:
        async with aiohttp.ClientSession() as session:
            assert [await post(server, session) for _ in range(4)] == [503, 429, 200, 200]
            server.script = [faults.answer(418)]
            assert await post(server, session) == 418

    server = serve([faults.answer(503), faults.answer(429)], client)
    assert [arrival.taken for arrival in server.arrivals] == [False, False, True, True, False]


def test_a_script_may_choose_by_the_request() -> None:
    async def client(server: FaultServer) -> None:
        async with aiohttp.ClientSession() as session:
            assert await post(server, session) == 413
            async with session.get(f"{server.url}/health") as response:
                assert response.status == 200

    serve(lambda request: faults.answer(413 if request.body else 200), client)


@pytest.mark.parametrize("status", [99, 101, 199, 204, 304, 599, 600, 999])
def test_any_status_can_be_said(status: int) -> None:
    said = received([faults.answer(status, {"Connection": "close"}), faults.fin_on_accept()])
    assert said.startswith(f"HTTP/1.1 {status:03d} ".encode())


def test_headers_may_come_twice() -> None:
    doubled = CIMultiDict([("Retry-After", "1"), ("Retry-After", "7")])
    said = received([faults.answer(429, doubled), faults.fin_on_accept()])
    assert said.count(b"Retry-After: ") == 2


def test_a_closed_port_refuses_until_the_server_comes_up() -> None:
    async def client(server: FaultServer) -> None:
        url = server.url
        with pytest.raises(ConnectionRefusedError):
            await ask(server)
        server.come_up()
        assert (await ask(server)).startswith(b"HTTP/1.1 200")
        await server.go_down()
        with pytest.raises(ConnectionRefusedError):
            await ask(server)
        server.come_up()
        assert (await ask(server)).startswith(b"HTTP/1.1 200")
        assert server.url == url

    assert serve([], client, up=False).connections == 2


def test_who_came_just_before_a_reset_is_reset_too() -> None:
    """Cancelled before its first step, the task that serves them would have left its socket open."""

    async def main() -> None:
        async with FaultServer() as server:
            address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
            with socket.create_connection(address) as guest:
                guest.settimeout(5)
                await asyncio.sleep(0)
                await server.reset_connections()
                await asyncio.sleep(0)
                await server.reset_connections()
                assert await asyncio.to_thread(guest.recv, 1) == b""

    asyncio.run(main())
    gc.collect()


def test_going_down_resets_open_connections() -> None:
    async def client(server: FaultServer) -> None:
        reader, writer = await connect(server)
        writer.write(REQUEST)
        await read_answer(reader)
        await server.go_down()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()

    serve([], client)


def test_fin_on_accept() -> None:
    assert received([faults.fin_on_accept()]) == b""


def test_rst_on_accept() -> None:
    assert reset([faults.rst_on_accept()]).requests == []


def test_a_step_for_a_connection_ends_the_one_before() -> None:
    async def client(server: FaultServer) -> None:
        first = await exchange(server)
        assert b"Connection: close" in first
        assert await exchange(server) == b""
        assert (await ask(server)).startswith(b"HTTP/1.1 200")

    assert len(serve([faults.answer(), faults.fin_on_accept()], client).requests) == 2


def test_an_idle_connection_does_not_swallow_a_step_for_a_connection() -> None:
    async def client(server: FaultServer) -> None:
        reader, writer = await connect(server)
        writer.write(REQUEST)
        await read_answer(reader)
        server.script = [faults.fin_on_accept()]
        writer.write(REQUEST)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        assert await exchange(server) == b""

    serve([], client)


def test_never_read_lets_the_client_write_until_it_stalls() -> None:
    async def client(server: FaultServer) -> None:
        _, writer = await connect(server)
        writer.write(bytes(50_000_000))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await writer.drain()
        writer.transport.abort()

    assert serve([faults.never_read()], client).requests == []


def test_reset_in_body() -> None:
    request = reset([faults.reset_in_body(after=10)]).requests[0]
    assert (request.body, request.complete) == (BODY[:10], False)


def test_read_slowly() -> None:
    async def client(server: FaultServer) -> None:
        assert (await ask(server)).startswith(b"HTTP/1.1 200")

    request = serve([faults.read_slowly(piece=7, pause=0)], client).requests[0]
    assert (request.body, request.complete) == (BODY, True)


def test_silence_keeps_the_request_and_says_nothing() -> None:
    async def client(server: FaultServer) -> None:
        reader, writer = await connect(server)
        writer.write(REQUEST)
        await server.wait_for_requests(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.read(1)
        writer.close()

    server = serve([faults.silence()], client)
    assert (server.requests[0].complete, server.requests[0].status) == (True, None)
    assert server.taken == {}


def test_lose_answer_takes_and_resets() -> None:
    assert list(reset([faults.lose_answer()]).taken) == ["id-1"]


def test_lose_answer_may_be_polite() -> None:
    assert received([faults.lose_answer(politely=True)]) == b""


def test_close_on_reuse_breaks_the_second_request_of_a_connection() -> None:
    async def client(server: FaultServer) -> None:
        reader, writer = await connect(server)
        writer.write(REQUEST)
        assert (await read_answer(reader)).startswith(b"HTTP/1.1 200")
        writer.write(REQUEST)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        assert (await ask(server)).startswith(b"HTTP/1.1 418")

    assert len(serve([faults.close_on_reuse(), faults.answer(418)], client).requests) == 2


def test_close_on_reuse_is_what_aiohttp_reports_as_disconnected() -> None:
    async def client(server: FaultServer) -> None:
        async with aiohttp.ClientSession() as session:
            assert await post(server, session) == 200
            with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
                await post(server, session)
            assert await post(server, session) == 200

    serve([faults.close_on_reuse()], client)


def test_slow_bytes_come_one_at_a_time() -> None:
    pieces: list[bytes] = []

    async def client(server: FaultServer) -> None:
        reader, writer = await connect(server)
        writer.write(REQUEST)
        while not b"".join(pieces).endswith(OK_BODY):
            pieces.append(await reader.read(100))
        writer.close()

    serve([faults.slow_bytes()], client)
    assert b"".join(pieces).startswith(b"HTTP/1.1 200")
    assert len(pieces) > 20


@pytest.mark.parametrize(
    "step",
    [faults.garbage(), faults.short_body(), faults.cut_body(), faults.mis_chunked(), faults.bad_gzip()],
    ids=["garbage", "short", "cut", "mis-chunked", "bad gzip"],
)
def test_no_usable_answer(step: faults.OnRequest) -> None:
    async def client(server: FaultServer) -> None:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await post(server, session)

    assert serve([step], client).taken in ({}, {"id-1": [{"type": "track", "messageId": "id-1"}]})


def test_a_bomb_is_small_on_the_wire_and_large_inside() -> None:
    answer = received([faults.gzip_bomb(), faults.fin_on_accept()])
    head, _, packed = answer.partition(b"\r\n\r\n")
    assert b"Content-Encoding: gzip" in head
    assert len(packed) < 220_000
    with gzip.open(io.BytesIO(packed)) as bomb:
        assert sum(map(len, iter(lambda: bomb.read(1_000_000), b""))) == 200_000_000


def test_huge_headers_are_a_megabyte() -> None:
    assert len(received([faults.huge_headers(), faults.fin_on_accept()])) > 1_000_000


def test_an_endless_body_goes_on_until_the_client_leaves() -> None:
    async def client(server: FaultServer) -> None:
        reader, writer = await connect(server)
        writer.write(REQUEST)
        await reader.readexactly(3_000_000)
        writer.transport.abort()

    serve([faults.endless_body()], client)


def test_informational_answers_come_before_the_final_one() -> None:
    said = received([faults.informational(100, 103, then=faults.answer(503)), faults.fin_on_accept()])
    assert [line[9:12] for line in said.split(b"\r\n") if line.startswith(b"HTTP/1.1")] == [b"100", b"103", b"503"]


def test_switch_protocols_ends_in_something_else() -> None:
    assert received([faults.switch_protocols()]).startswith(b"HTTP/1.1 101 ")


def test_a_second_origin_knows_whether_anything_arrived() -> None:
    async def main() -> None:
        async with FaultServer() as elsewhere, FaultServer([faults.redirect(elsewhere.url)]) as server:
            async with aiohttp.ClientSession() as session:
                assert await post(server, session) == 307
                assert elsewhere.connections == 0
                server.script = [faults.redirect(f"{elsewhere.url}/v1/batch")]
                async with session.post(server.url, data=BODY):
                    pass
            assert (elsewhere.connections, elsewhere.requests[0].body) == (1, BODY)

    asyncio.run(main())


def test_waiting_for_requests_has_a_bound() -> None:
    async def client(server: FaultServer) -> None:
        await ask(server)
        await server.wait_for_requests(1)
        with pytest.raises(TimeoutError):
            await server.wait_for_requests(2, at_most=0.01)

    serve([], client)


def test_leaving_closes_what_is_still_held() -> None:
    async def main() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with FaultServer([faults.silence()]) as server:
            reader, writer = await connect(server)
            writer.write(REQUEST)
            await server.wait_for_requests(1)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        return reader, writer

    asyncio.run(main())


# TLS


def tls_serve(
    context: ssl.SSLContext, client: Callable[[FaultServer], Awaitable[None]], script: Script = ()
) -> FaultServer:
    async def main() -> FaultServer:
        async with asyncio.timeout(10), FaultServer(script, tls=context) as server:
            await client(server)
        return server

    return asyncio.run(main())


@pytest.fixture(scope="module")
def ca() -> PrivateCA:
    return PrivateCA()


async def tls_post(server: FaultServer, ca: PrivateCA) -> int:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=ca.client_context())) as session:
        return await post(server, session)


def test_tls_works_for_who_trusts_the_authority(ca: PrivateCA) -> None:
    async def client(server: FaultServer) -> None:
        assert server.url.startswith("https://")
        assert await tls_post(server, ca) == 200

    assert list(tls_serve(ca.good(), client).taken) == ["id-1"]


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        (PrivateCA.self_signed, "self.signed"),
        (PrivateCA.expired, "expired"),
        (PrivateCA.wrong_name, "not valid for|mismatch"),
    ],
)
def test_a_bad_certificate_is_bad(ca: PrivateCA, kind: Callable[[PrivateCA], ssl.SSLContext], complaint: str) -> None:
    async def client(server: FaultServer) -> None:
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match=complaint):
            await tls_post(server, ca)

    server = tls_serve(kind(ca), client)
    assert server.requests == []


def test_a_handshake_may_stall(ca: PrivateCA) -> None:
    async def client(server: FaultServer) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await tls_post(server, ca)

    tls_serve(ca.good(), client, [faults.never_read()])


def test_tls_may_be_cut_in_the_body(ca: PrivateCA) -> None:
    async def client(server: FaultServer) -> None:
        with pytest.raises(aiohttp.ClientError):
            await tls_post(server, ca)

    tls_serve(ca.good(), client, [faults.cut_body()])


def test_a_certificate_may_change_while_the_server_runs(ca: PrivateCA) -> None:
    async def client(server: FaultServer) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=ca.client_context())) as session:
            assert await post(server, session) == 200
            await server.change_certificate(PrivateCA().good())
            with pytest.raises(aiohttp.ClientError):
                await post(server, session)
            await server.change_certificate(ca.good())
            assert await post(server, session) == 200

    tls_serve(ca.good(), client)


def test_a_mistake_of_the_server_itself_is_not_swallowed() -> None:
    async def act(exchange: object) -> None:
        raise ZeroDivisionError

    async def client(server: FaultServer) -> None:
        with pytest.raises(ConnectionResetError):
            await exchange(server)

    with pytest.raises(BaseExceptionGroup, match="itself went wrong"):
        serve([faults.OnRequest(act)], client)


def test_the_port_stays_the_servers_own_while_it_is_down() -> None:
    async def client(server: FaultServer) -> None:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))

    serve([], client, up=False)
