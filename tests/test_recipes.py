"""Each example runs in its real framework, and its messages arrive at a local endpoint."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from segment_async.devserver import Endpoint, serve
from tests.support.asgi import ANONYMOUS, FIREFOX

EXAMPLES = Path(__file__).parents[1] / "examples"
BROWSER = {
    "User-Agent": FIREFOX,
    "Accept": "text/html,*/*;q=0.8",
    "Accept-Language": "de-CH,de;q=0.9",
    "Cookie": f"ajs_anonymous_id={ANONYMOUS}",
}

Message = dict[str, Any]


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [module for module in modules if find_spec(module) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


@asynccontextmanager
async def running(*command: str, env: dict[str, str], until: str) -> AsyncIterator[str]:
    """Run an example until SIGTERM; the value is the group of the first line of output that matches."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=EXAMPLES,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    said: list[str] = []
    try:
        async with asyncio.timeout(60):
            while (found := re.search(until, said[-1] if said else "")) is None:
                line = (await process.stdout.readline()).decode()
                assert line, "".join(said)
                said.append(line)
        yield found[found.lastindex or 0]
        process.send_signal(signal.SIGTERM)
        rest, _ = await asyncio.wait_for(process.communicate(), 30)
        assert b"Traceback" not in rest, rest.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def finished(*command: str, env: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=EXAMPLES,
        env={**os.environ, **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, said.decode()
    return said.decode()


@asynccontextmanager
async def uvicorn(application: str, endpoint: Endpoint, **env: str) -> AsyncIterator[aiohttp.ClientSession]:
    command = ("-m", "uvicorn", application, "--port", "0", "--no-proxy-headers")
    environment = {"SEGMENT_HOST": endpoint.url, "SEGMENT_WRITE_KEY": "KEY", **env}
    async with (
        running(*command, env=environment, until=r"running on (http://\S+)") as url,
        aiohttp.ClientSession(url, headers=BROWSER) as session,
    ):
        yield session


async def status(session: aiohttp.ClientSession, method: str, path: str, **options: Any) -> int:
    async with session.request(method, path, **options) as answer:
        await answer.read()
        return answer.status


def by_name(messages: list[Message]) -> dict[str, Message]:
    return {message.get("event") or message.get("name") or message["type"]: message for message in messages}


def check_page(message: Message, name: str) -> None:
    assert message["name"] == name
    assert message["anonymousId"] == ANONYMOUS
    context, properties = message["context"], message["properties"]
    assert (context["ip"], context["userAgent"], context["locale"]) == ("127.0.0.1", FIREFOX, "de-CH")
    assert context["campaign"] == {"source": "mail"}
    assert properties["title"] == "Shoes no. 42"
    assert properties["url"].endswith("/shoes/42?utm_source=mail")


# -- the web


@needs("fastapi", "uvicorn")
def test_fastapi() -> None:
    async def main() -> list[Message]:
        async with serve() as endpoint:
            async with uvicorn("fastapi_app:app", endpoint) as session:
                assert await status(session, "GET", "/shoes/42?utm_source=mail&token=secret") == 200
                assert await status(session, "POST", "/orders") == 200
                assert await status(session, "GET", "/prices") == 200
                assert await status(session, "POST", "/login/user-1") == 200
                async with session.ws_connect("/live") as socket:
                    assert await socket.receive_str() == "hello"
                async with session.post("/orders", headers={"Cookie": ""}) as answer:  # a request without a cookie
                    assert answer.status == 200
            return endpoint.messages

    arrived = by_name(asyncio.run(main()))
    check_page(arrived.pop("/shoes/{number}"), "/shoes/{number}")
    assert set(arrived) == {"Order Completed", "Receipt Sent", "Prices Seen", "identify", "Live View Opened"}
    assert {message["anonymousId"] for message in arrived.values()} == {ANONYMOUS}
    assert arrived["identify"]["userId"] == "user-1"
    assert "secret" not in str(arrived)


@needs("starlette", "uvicorn")
def test_starlette() -> None:
    async def main() -> list[Message]:
        async with serve() as endpoint:
            async with uvicorn("starlette_app:app", endpoint) as session:
                assert await status(session, "GET", "/shop/shoes/42?utm_source=mail") == 200
                assert await status(session, "POST", "/orders") == 200
            return endpoint.messages

    page, *events = asyncio.run(main())
    check_page(page, "/shop/shoes/{number:int}")
    assert [event["event"] for event in events] == ["Order Completed", "Receipt Sent"]
    assert {event["anonymousId"] for event in events} == {ANONYMOUS}


@needs("litestar", "uvicorn")
def test_litestar() -> None:
    async def main() -> list[Message]:
        async with serve() as endpoint:
            async with uvicorn("litestar_app:app", endpoint) as session:
                assert await status(session, "GET", "/shoes/42?utm_source=mail") == 200
                assert await status(session, "POST", "/orders") == 201
            return endpoint.messages

    page, event = asyncio.run(main())
    check_page(page, "/shoes/{number}")
    assert (event["event"], event["anonymousId"]) == ("Order Completed", ANONYMOUS)


@needs("quart", "uvicorn")
def test_quart() -> None:
    async def main() -> list[Message]:
        async with serve() as endpoint:
            async with uvicorn("quart_app:app", endpoint) as session:
                assert await status(session, "GET", "/shoes/42?utm_source=mail") == 200
                assert await status(session, "POST", "/orders") == 200
                assert await status(session, "GET", "/prices") == 200
            return endpoint.messages

    page, *events = asyncio.run(main())
    check_page(page, "/shoes/<int:number>")
    assert [event["event"] for event in events] == ["Order Completed", "Prices Seen"]
    assert {event["anonymousId"] for event in events} == {ANONYMOUS}


@needs("django", "uvicorn")
def test_django(tmp_path: Path) -> None:
    env = {"DJANGO_DATABASE": str(tmp_path / "shop.db"), "DJANGO_SETTINGS_MODULE": "django_app.settings"}

    async def main() -> list[Message]:
        async with serve() as endpoint:
            await finished("-m", "django", "migrate", "--pythonpath", ".", env=env)
            async with uvicorn("django_app.asgi:application", endpoint, **env) as session:
                assert await status(session, "GET", "/shoes/42?utm_source=mail") == 200
                async with session.get("/login/ada") as answer:
                    jar = f"{BROWSER['Cookie']}; sessionid={answer.cookies['sessionid'].value}"
                assert await status(session, "POST", "/orders", headers={"Cookie": jar}) == 200
                assert await status(session, "GET", "/prices", headers={"Cookie": jar}) == 200
            return endpoint.messages

    page, *others = asyncio.run(main())
    check_page(page, "/shoes/<int:number>")
    assert [(message["type"], message.get("event"), message["userId"]) for message in others] == [
        ("identify", None, "1"),
        ("track", "Order Completed", "1"),
        ("track", "Prices Seen", "1"),
    ]
    assert {message["anonymousId"] for message in others} == {ANONYMOUS}


@pytest.mark.skipif(aiohttp.__version__.startswith("3.10."), reason="says port 0 where it was asked for any")
def test_aiohttp() -> None:
    async def main() -> list[Message]:
        async with serve() as endpoint:
            env = {"SEGMENT_HOST": endpoint.url, "PORT": "0"}
            async with (
                running("aiohttp_app.py", env=env, until=r"Running on (http://\S+)") as url,
                aiohttp.ClientSession(url, headers=BROWSER) as session,
            ):
                assert await status(session, "POST", "/orders?utm_source=mail") == 200
                assert await status(session, "POST", "/orders", headers={"Cookie": ""}) == 200
                assert await status(session, "GET", "/nowhere") == 404
            return endpoint.messages

    (event,) = asyncio.run(main())
    assert (event["event"], event["anonymousId"]) == ("Order Completed", ANONYMOUS)
    context = event["context"]
    assert (context["ip"], context["userAgent"], context["campaign"]) == ("127.0.0.1", FIREFOX, {"source": "mail"})
    assert context["page"]["path"] == "/orders"


# -- workers and scripts


@needs("celery")
def test_celery(tmp_path: Path) -> None:
    async def main() -> list[Message]:
        async with serve() as endpoint:
            env = {"SEGMENT_HOST": endpoint.url, "CELERY_BROKER": "filesystem://", "CELERY_FOLDER": str(tmp_path)}
            pay = "import celery_worker; celery_worker.pay('A-1001', 'user-1')"
            await finished("-c", pay, env=env)
            worker = ("-m", "celery", "-A", "celery_worker", "worker", "-P", "prefork", "-c", "1", "-l", "INFO")
            async with running(*worker, env=env, until=r"Task celery_worker.send_receipt\S* succeeded"):
                assert endpoint.messages == []  # it is sent when the process ends
            return endpoint.messages

    (event,) = asyncio.run(main())
    assert (event["event"], event["userId"], event["properties"]) == ("Receipt Sent", "user-1", {"order_id": "A-1001"})


@needs("taskiq")
def test_taskiq() -> None:
    async def main() -> list[Message]:
        async with serve() as endpoint:
            await finished("taskiq_worker.py", env={"SEGMENT_HOST": endpoint.url})
            return endpoint.messages

    (event,) = asyncio.run(main())
    assert (event["event"], event["userId"], event["properties"]) == ("Receipt Sent", "user-1", {"order_id": "A-1001"})


def test_a_plain_script() -> None:
    async def main() -> tuple[str, list[Message]]:
        async with serve() as endpoint:
            said = await finished("-W", "error", "plain_script.py", env={"SEGMENT_HOST": endpoint.url})
            return said, endpoint.messages

    said, arrived = asyncio.run(main())
    assert said == "4 delivered, 0 not\n"
    assert [message["userId"] for message in arrived] == ["user-1"] * 4


@needs("mangum", "fastapi")
def test_lambda() -> None:
    lambda_itself = """
import json, lambda_handler

class Context:
    def get_remaining_time_in_millis(self):
        return 3_000

request = {
    "version": "2.0", "routeKey": "$default", "rawPath": "/orders", "rawQueryString": "utm_source=mail",
    "headers": {"cookie": "ajs_anonymous_id=visitor-1", "host": "shop.example", "user-agent": "Firefox"},
    "requestContext": {"http": {"method": "POST", "path": "/orders", "sourceIp": "203.0.113.9"}, "stage": "$default"},
    "isBase64Encoded": False,
}
for number in range(2):
    print(lambda_handler.handler({"user_id": f"user-{number}", "total": number}, Context()))
    print(lambda_handler.web(request, Context())["statusCode"])
    print(lambda_handler.client.statistics().pending)
"""

    async def main() -> tuple[str, list[Message]]:
        async with serve() as endpoint:
            said = await finished("-c", lambda_itself, env={"SEGMENT_HOST": endpoint.url})
            return said, endpoint.messages

    said, arrived = asyncio.run(main())
    assert said == "{'status': 'paid'}\n200\n0\n" * 2
    assert [message.get("userId") or message["anonymousId"] for message in arrived] == [
        *("user-0", "visitor-1"),
        *("user-1", "visitor-1"),
    ]
    assert arrived[1]["context"]["ip"] == "203.0.113.9"
