"""What a relay says over HTTP: whether it lives, whether its Redis answers, and its metrics."""

import asyncio
import re
import signal

import aiohttp

from segment_async.relay import RedisSpool, RelayInspector
from segment_async.relay._health import Endpoint
from tests.docs.blocks import ROOT

from .servers import RealServer
from .stage import RelayProcess, relay, sink, until
from .test_relays import SHORT, hand_over, host, run


async def url_of(process: RelayProcess) -> str:
    await until(lambda: "health and metrics on" in process.log, "the endpoint is there")
    found = re.search(r"http://127\.0\.0\.1:\d+", process.log)
    assert found is not None
    return found[0]


def test_health_and_metrics(server: RealServer) -> None:
    async def main() -> None:
        async with sink() as segment, relay(server.url, segment.url, *SHORT, "--metrics-port", "0") as process:
            url = await url_of(process)
            client = host(server)
            await hand_over(client, 3)
            await until(lambda: len(segment.ids) == 3, "they arrive")
            async with aiohttp.ClientSession() as session:

                async def ask(path: str) -> tuple[int, str]:
                    async with session.get(url + path) as answer:
                        return answer.status, await answer.text()

                assert await ask("/livez") == (200, "alive\n")
                assert await ask("/readyz") == (200, "ready\n")
                status, metrics = await ask("/metrics")
                assert status == 200
                assert "segment_relay_redis_up 1.0" in metrics
                assert "segment_relay_backlog 0.0" in metrics
                assert re.search(r'segment_relay_held\{consumer="[^"]+"\} 0\.0', metrics)
                assert re.search(r'segment_messages_total\{.*outcome="delivered".*\} 3\.0', metrics)
                exported = set(re.findall(r"^(segment_relay_\w+)", metrics, re.MULTILINE))
                pages = [ROOT / "docs" / "relay.md", ROOT / "docs" / "how-to" / "alerts.md"]
                assert exported == set(re.findall(r"segment_relay_\w+", "".join(page.read_text() for page in pages)))

                async def becomes(expected: int) -> bool:
                    for _ in range(400):
                        if (await ask("/readyz"))[0] == expected:
                            return True
                        await asyncio.sleep(0.05)
                    return False

                server.signal(signal.SIGSTOP)
                try:
                    assert await becomes(503)
                    assert (await ask("/livez"))[0] == 200
                finally:
                    server.signal(signal.SIGCONT)
                assert await becomes(200)
            await client.aclose()
            assert await process.end() == 0
            assert "delivered 3, failed 0, given back 0" in process.log

    run(main())


def test_an_address_of_ipv6_is_in_brackets(server: RealServer) -> None:
    async def main() -> None:
        client = host(server)
        endpoint = Endpoint(client, RedisSpool(server.url), RelayInspector(server.url, "key"))
        await endpoint.start("::1", 0)
        async with aiohttp.ClientSession() as session, session.get(f"{endpoint.url}/livez") as answer:
            assert answer.status == 200
        await endpoint.aclose()
        await client.aclose()

    run(main())
