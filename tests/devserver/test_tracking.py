"""`/v1/*`: which requests are accepted or refused, and with which response."""

import asyncio
import gzip
import json
import time
import zlib

import aiohttp
import orjson
import pytest

from segment_async.devserver import Answered, Endpoint
from segment_async.devserver._body import inflate
from segment_async.plans import Plan
from tests.devserver.exchange import KEY, body, raw, send, track, with_endpoint

CALLS = ["track", "identify", "page", "screen", "group", "alias"]


def test_a_gzipped_batch_is_kept_and_answered_with_success() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        headers = {**KEY, "Content-Encoding": "gzip", "X-Retry-Count": "2"}
        packed = gzip.compress(body(track(1), track(2, properties={"total": 30.5})))
        async with session.post("/v1/batch", data=packed, headers=headers) as answer:
            assert (answer.status, await answer.json()) == (200, {"success": True})
        assert endpoint.messages == [track(1), track(2, properties={"total": 30.5})]
        event = endpoint.events[1]
        assert (event.batch.source, event.batch.attempt, event.batch.sent_at) == ("key", 3, "2026-11-21T19:20:03.047Z")
        assert event.verdicts == ()

    with_endpoint(case)


def test_what_arrived_shows_neither_key_nor_contents_in_its_repr() -> None:
    reported: list[Answered] = []

    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        headers = {"Authorization": "Basic VEhFLUtFWTo="}  # "THE-KEY:"
        message = track(1, userId="ann@example.com", event="Seen", properties={"total": 4711})
        await session.post("/v1/batch", data=body(message), headers=headers)
        [event] = endpoint.events
        assert event.batch.source == "THE-KEY"
        for shown in (repr(event), repr(event.batch), repr(reported)):
            assert not [secret for secret in ("THE-KEY", "ann@example.com", "Seen", "4711") if secret in shown]

    with_endpoint(case, report=reported.append)


def test_a_gzip_body_of_several_members_is_one_body() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        whole = body(track())
        packed = gzip.compress(whole[:40]) + gzip.compress(whole[40:])
        await session.post("/v1/batch", data=packed, headers={**KEY, "Content-Encoding": "gzip"})
        assert endpoint.messages == [track()]

    with_endpoint(case)


@pytest.mark.parametrize("path", ["batch", "import", "b"])
def test_every_path_for_batches(path: str) -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await session.post(f"/v1/{path}", data=body(track()), headers=KEY)
        assert [event.batch.route for event in endpoint.events] == [f"/v1/{path}"]

    with_endpoint(case)


@pytest.mark.parametrize("call", CALLS)
def test_every_path_for_a_single_call(call: str) -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        for number, path in enumerate((call, call[0])):
            message = json.dumps({"userId": "u1", "messageId": str(number), "writeKey": "key"})
            await session.post(f"/v1/{path}", data=message, headers={"Content-Type": "text/plain"})
        assert [message["type"] for message in endpoint.messages] == [call, call]
        assert [event.batch.source for event in endpoint.events] == ["key", "key"]

    with_endpoint(case)


def test_the_key_may_be_in_the_body_and_is_masked() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        key = "abcdefghijklmnopqrstuvwxyz012345"
        await session.post("/v1/batch", data=body(track(writeKey=key), writeKey=key))
        await session.post("/v1/batch", data=body(track(2), writeKey=key), headers={"Authorization": "Bearer a-token"})
        assert [event.batch.source for event in endpoint.events] == ["abcd…2345"] * 2
        assert endpoint.messages == [track(), track(2)]
        assert "a-token" not in str(endpoint.events)
        assert key not in str(endpoint.events)

    with_endpoint(case)


def test_without_a_key_there_is_a_verdict() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await session.post("/v1/batch", data=body(track()))
        assert [verdict.rule for verdict in endpoint.events[0].verdicts] == ["write-key-missing"]

    with_endpoint(case)


def test_a_duplicate_is_kept_and_marked() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, track())
        await send(session, track(), track(2))
        assert [[verdict.rule for verdict in event.verdicts] for event in endpoint.events] == [
            [],
            ["duplicate-id"],
            [],
        ]
        endpoint.clear()
        await send(session, track())
        assert endpoint.events[0].verdicts == ()

    with_endpoint(case)


def test_messages_beyond_the_batch_limit_would_be_dropped() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        assert await send(session, *({"messageId": str(number)} for number in range(2_501))) == 200
        rules = [{verdict.rule for verdict in event.verdicts} for event in endpoint.events]
        assert [index for index, found in enumerate(rules) if "batch-too-long" in found] == [2_500]

    with_endpoint(case)


def test_a_batch_of_other_values_has_verdicts() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        assert await send(session, 1, "two", None, [3]) == 200
        assert [event.verdicts[0].rule for event in endpoint.events] == ["not-an-object"] * 4

    with_endpoint(case)


@pytest.mark.parametrize(
    ("sent", "headers", "reason"),
    [
        (b'{"batch": [', {}, "malformed JSON"),
        (b'{"batch": [NaN]}', {}, "malformed JSON"),
        (b"[]", {}, "not a JSON object"),
        (b"{}", {}, "no list of messages"),
        (b"", {}, "malformed JSON"),
        (b"not gzip", {"Content-Encoding": "gzip"}, "not gzip"),
        (gzip.compress(body(track()))[:-9], {"Content-Encoding": "gzip"}, "is truncated"),
        (body(track()), {"Content-Encoding": "br"}, "'br' is not gzip"),
        (body(track(padding="x" * 32_768)), {}, "message 1 of 1 has"),
        (b'{"batch": [' + b"[" * 300 + b"]" * 300 + b"]}", {}, "nested too deeply"),
        (b" " * 500_001, {}, "larger than 500,000 bytes"),
        (gzip.compress(b" " * 500_001), {"Content-Encoding": "gzip"}, "larger than 500,000 bytes"),
        (b"x" * 900_000, {}, "larger than 500,000 bytes"),
    ],
)
def test_refused_requests_get_400_and_store_nothing(sent: bytes, headers: dict[str, str], reason: str) -> None:
    reports: list[Answered] = []

    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        async with session.post("/v1/batch", data=sent, headers={**KEY, **headers}) as answer:
            assert answer.status == 400
            assert reason in (await answer.json())["message"]
        assert endpoint.events == []
        assert [report.status for report in reports] == [400]
        assert endpoint.summary()["refused"] == {"400": 1}

    with_endpoint(case, report=reports.append)


def test_the_limit_of_a_message_is_exact() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        rest = len(json.dumps(track(padding=""), separators=(",", ":")))
        assert await send(session, track(padding="x" * (32_768 - rest))) == 200
        assert await send(session, track(padding="x" * (32_769 - rest))) == 400

    with_endpoint(case)


def test_a_gzip_bomb_is_refused_before_it_is_decompressed() -> None:
    """A gigabyte of spaces in a megabyte of gzip exceeds both limits: on the wire and decompressed."""
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join(packer.compress(b" " * 1_000_000) for _ in range(400)) + packer.flush()
    assert len(bomb) < 500_000

    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        async with session.post("/v1/batch", data=bomb, headers={**KEY, "Content-Encoding": "gzip"}) as answer:
            assert answer.status == 400
        assert endpoint.summary()["total"] == 0

    with_endpoint(case)


def test_a_request_of_many_messages_does_not_block_others() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        large = asyncio.create_task(send(session, *([1] * 100_000)))
        assert await endpoint.wait(1, timeout=60)
        async with session.get("/_dev/summary") as answer:
            assert 0 < (await answer.json())["total"] < 100_000
        assert await large == 200
        assert endpoint.summary()["total"] == 100_000

    with_endpoint(case)


def test_one_message_that_is_too_large_refuses_those_before_it() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        many = [track(number) for number in range(600)]
        assert await send(session, *many, track(padding="x" * 32_768)) == 400
        assert endpoint.summary()["total"] == 0
        assert await send(session, *many) == 200
        assert {event.verdicts for event in endpoint.events} == {()}

    with_endpoint(case)


@pytest.mark.parametrize("path", ["/v1/batch/", "/v1//batch", "/v1/../_dev/events", "/v1/%2e%2e/_dev/events", "/v1/m"])
def test_other_paths_do_not_exist(path: str) -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(endpoint.url.rpartition(":")[2]))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 405"))

    with_endpoint(case)


def test_the_stored_size_of_a_message_is_limited() -> None:
    """Each stored event keeps its request."""

    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        headers = {f"X-{number}": "x" * 7_000 for number in range(60)}
        secrets = {f"{number}-token": 1 for number in range(2_000)}
        whole = json.dumps({"batch": [track(properties=secrets), track("m" * 30_000)], "sentAt": "s" * 400_000})
        for _ in range(2):
            async with session.post("/v1/batch", data=whole, headers={**KEY, **headers}) as answer:
                assert answer.status == 200
        for event in endpoint.events:
            assert len(event.verdicts) <= 51
            assert sum(len(name) + len(value) for name, value in event.batch.headers.items()) < 20_000
            assert len(event.batch.sent_at or "") < 1_000
        rules = [event.verdicts[0].rule for event in endpoint.events]
        assert rules == ["key-secret", "message-id-long", "duplicate-id", "message-id-long"]

    with_endpoint(case)


def test_an_aborted_post_stores_nothing_and_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", int(endpoint.url.rpartition(":")[2]))
        writer.write(b"POST /v1/batch HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert await send(session, track()) == 200
        assert endpoint.messages == [track()]
        assert endpoint.summary()["refused"] == {"reset": 1}
        assert caplog.text == ""

    with_endpoint(case)


def test_messages_are_judged_against_a_plan() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await session.post("/v1/batch", data=body(track(1, userId=""), track(2, event="Signed Up"), 3), headers=KEY)
        assert [[verdict.rule for verdict in event.verdicts] for event in endpoint.events] == [
            ["id-missing", "plan-unplanned-event"],
            [],
            ["not-an-object"],
        ]

    with_endpoint(case, plan=Plan.load([{"key": "Signed Up", "type": "TRACK", "jsonSchema": {}}]))


@pytest.mark.parametrize("plan", ["plan.json", [{"key": "Signed Up", "type": "TRACK", "jsonSchema": {}}]])
def test_what_is_no_plan_is_refused(plan: object) -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        raise AssertionError("it listens")

    with pytest.raises(ValueError, match=r"plan must be a Plan of segment_async\.plans"):
        with_endpoint(case, plan=plan)


def test_headers_of_any_bytes_are_stored_as_text() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        head = b"POST /v1/batch HTTP/1.1\r\nX-Name: caf\xe9\r\nAuthorization: Basic \xff"
        assert await raw(endpoint, head, body(track())) == 200
        headers = endpoint.events[0].batch.headers
        assert headers["X-Name"] == "caf?"
        assert json.loads(orjson.dumps(dict(headers))) == headers

    with_endpoint(case)


def test_the_time_for_a_gzip_body_of_many_members_grows_with_its_length() -> None:
    def seconds(members: int) -> float:
        """The least of three tries."""
        packed = gzip.compress(b"") * members
        taken = []
        for _ in range(3):
            before = time.process_time()
            assert inflate(packed, "gzip") == b""
            taken.append(time.process_time() - before)
        return min(taken)

    assert seconds(24_000) < 20 * seconds(3_000)
