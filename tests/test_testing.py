"""The recording transport stands behind the real pipeline."""

import asyncio

from segment_async import Client, Response, TransportError
from segment_async.testing import RecordingTransport


def test_it_keeps_what_was_sent_as_it_travelled() -> None:
    async def main() -> None:
        transport = RecordingTransport()
        async with Client("key", transport=transport) as client:
            await client.track("user-1", "Signed Up", {"plan": "pro"})
            await client.identify("user-1", {"email": "a@example.com"})
        assert [message["type"] for message in transport.messages] == ["track", "identify"]
        assert transport.batches[0]["writeKey"] == "key"

    asyncio.run(main())


def test_its_answers_can_be_scripted() -> None:
    def refuse_once(batch: dict[str, object]) -> Response:
        if len(transport.batches) == 1:
            raise TransportError("no connection", maybe_sent=False)
        return Response(401)

    transport = RecordingTransport(refuse_once)

    async def main() -> None:
        async with Client("key", transport=transport, gzip=False, flush_interval=0) as client:
            outcome = await (await client.track("user-1", "Signed Up"))
        assert (outcome.reason, outcome.status_code, outcome.attempts) == ("unauthorized", 401, 2)

    asyncio.run(main())
