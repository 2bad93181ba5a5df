"""Django's middleware under WSGI and ASGI: what a request binds, page views, the cookie, and real servers."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from typing import Any

import aiohttp
import pytest

from tests.support.asgi import ANONYMOUS, FIREFOX
from tests.support.fault_server import FaultServer
from tests.support.programs import running

pytest.importorskip("django")

BROWSER = {
    "User-Agent": FIREFOX,
    "Accept": "text/html",
    "Accept-Language": "de-CH,de;q=0.9",
    "Cookie": f"ajs_anonymous_id={ANONYMOUS}",
}
WSGI = ("-m", "gunicorn", "-b", "127.0.0.1:0", "--no-control-socket")
ASGI = ("-m", "uvicorn", "--port", "0", "--no-proxy-headers")
SERVERS = [
    pytest.param((*WSGI, "tests.programs.django_shop.wsgi"), id="gunicorn"),
    pytest.param(
        (*WSGI, "-k", "gthread", "--threads", "4", "--preload", "tests.programs.django_shop.wsgi"),
        id="gunicorn threads preloaded",
    ),
    pytest.param((*ASGI, "tests.programs.django_shop.asgi:application"), id="uvicorn"),
]


class Visited:
    """What came of the requests to a server that was terminated afterwards."""

    def __init__(self, command: tuple[str, ...], *requests: tuple[str, dict[str, str]]) -> None:
        self.headers: list[Any] = []
        asyncio.run(self._main(command, requests))

    async def _main(self, command: tuple[str, ...], requests: tuple[tuple[str, dict[str, str]], ...]) -> None:
        async with FaultServer() as server:
            async with running(*command, host=server.url, together=True) as program:
                found = re.search(r"(http://127\.0\.0\.1:\d+)", await program.says("http://127.0.0.1:"))
                assert found is not None
                async with aiohttp.ClientSession(found[1], cookie_jar=aiohttp.DummyCookieJar()) as session:
                    for path, headers in requests:
                        async with session.get(path, headers=headers, allow_redirects=False) as response:
                            await response.read()
                            assert response.status < 400
                            self.headers.append(response.headers)
                program.signal(signal.SIGTERM)
                said = await program.end()
                assert "Traceback" not in said.out, said.out
            assert all(len(times) == 1 for times in server.taken.values())
            self.messages = [message for (message,) in server.taken.values()]

    def names(self) -> Counter[str]:
        return Counter(message.get("event") or message.get("name") or message["type"] for message in self.messages)


@pytest.fixture(params=SERVERS)
def command(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_views_know_who_and_where_and_pages_are_counted(command: tuple[str, ...]) -> None:
    visited = Visited(
        command,
        ("/shoes/42?utm_source=mail&token=secret", BROWSER),
        ("/orders", BROWSER),
        ("/aorders", BROWSER),
        ("/login/ada", BROWSER),
        ("/stream", BROWSER),
        ("/astream", BROWSER),
        ("/orders", {"User-Agent": "curl"}),
    )
    expected = ("/shoes/<int:number>", "Order Completed", "Order Completed", "identify", "/stream", "Streamed")
    assert visited.names() == Counter((*expected, "/astream", "Streamed asynchronously"))
    assert {message["anonymousId"] for message in visited.messages} == {ANONYMOUS}
    page = next(message for message in visited.messages if message.get("name") == "/shoes/<int:number>")
    assert page["properties"]["title"] == "Shoes no. 42"
    context = page["context"]
    assert (context["ip"], context["userAgent"], context["locale"]) == ("127.0.0.1", FIREFOX, "de-CH")
    assert context["campaign"] == {"source": "mail"}
    assert "secret" not in str(visited.messages)
    (identify,) = [message for message in visited.messages if message["type"] == "identify"]
    assert identify["userId"] == "ada"


def test_visitors_get_the_cookie(command: tuple[str, ...]) -> None:
    new = {**BROWSER, "Cookie": ""}
    visited = Visited(command, ("/shoes/1", new), ("/away", new), ("/shoes/2", BROWSER))
    first, second, third = (headers.get("Set-Cookie", "") for headers in visited.headers)
    assert first.startswith("ajs_anonymous_id=") and "Max-Age=31536000" in first and "SameSite=Lax" in first
    assert second.startswith("ajs_anonymous_id=")
    assert third == ""
    assert visited.messages[0]["anonymousId"] == first.split(";")[0].split("=")[1]


def test_djangos_own_test_client_and_user() -> None:
    program = [sys.executable, "-W", "error", "-m", "tests.programs.django_test_client"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("is_async", [False, True])
def test_installed_twice_the_inner_one_does_nothing(is_async: bool) -> None:
    program = f"""
import asyncio
from django.conf import settings
settings.configure(
    SEGMENT_WRITE_KEY="KEY", SEGMENT_OPTIONS={{"send": False}}, ALLOWED_HOSTS=["*"], ROOT_URLCONF="unused",
    SEGMENT_MIDDLEWARE={{"page_views": True}},
)
import django
django.setup()
from django.http import HttpResponse
from django.test import AsyncRequestFactory, RequestFactory
from segment_async.django import SegmentMiddleware, client
headers = {{"user-agent": {FIREFOX!r}, "accept": "text/html", "cookie": "ajs_anonymous_id={ANONYMOUS}"}}
def view(request):
    request.resolver_match = None
    return HttpResponse("<title>Shoes</title>")
async def aview(request):
    return view(request)
async def ask():
    await SegmentMiddleware(SegmentMiddleware(aview))(AsyncRequestFactory().get("/", headers=headers))
if {is_async}:
    asyncio.run(ask())
else:
    SegmentMiddleware(SegmentMiddleware(view))(RequestFactory().get("/", headers=headers))
print(client.statistics().accepted)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "1\n", said.stderr


def test_a_request_that_is_answered_once_more_is_bound_once_more() -> None:
    program = f"""
import asyncio
from django.conf import settings
settings.configure(SEGMENT_WRITE_KEY="KEY", SEGMENT_OPTIONS={{"send": False}}, ALLOWED_HOSTS=["*"])
import django
django.setup()
from django.http import HttpResponse
from django.test import AsyncRequestFactory, RequestFactory
from segment_async.django import SegmentMiddleware, client
def view(request):
    client.track(event="Seen")
    return HttpResponse()
async def aview(request):
    await asyncio.sleep(0)
    return view(request)
again = SegmentMiddleware(view)
request = RequestFactory().get("/", headers={{"cookie": "ajs_anonymous_id={ANONYMOUS}"}})
again(request), again(request)
async def twice_at_once():
    inner = SegmentMiddleware(aview)
    request = AsyncRequestFactory().get("/", headers={{"cookie": "ajs_anonymous_id={ANONYMOUS}"}})
    await asyncio.gather(inner(request), inner(request))
asyncio.run(twice_at_once())
print(client.statistics().accepted, dict(client.statistics().reasons))
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "4 {'disabled': 4}\n", said.stderr


def test_threads_that_come_first_at_once_share_one_client() -> None:
    program = """
import sys, threading
from django.conf import settings
settings.configure(SEGMENT_WRITE_KEY="KEY", SEGMENT_OPTIONS={"send": False})
from segment_async.django import client
sys.setswitchinterval(1e-6)
ready = threading.Barrier(8)
def call():
    ready.wait()
    client.track("user", "Event")
callers = [threading.Thread(target=call) for _ in range(8)]
for caller in callers: caller.start()
for caller in callers: caller.join()
print(client.statistics().accepted)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "8\n"


UNUSED = """
import asyncio
from django.conf import settings
from segment_async.django import with_lifespan

settings.configure()
told = []

async def main():
    events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive():
        return next(events)

    async def send(event):
        told.append(event["type"])

    await with_lifespan(None)({"type": "lifespan"}, receive, send)

asyncio.run(main())
print(*told)
"""


def test_a_client_that_was_never_used_needs_no_key_at_the_shutdown() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "SEGMENT_WRITE_KEY"}
    done = subprocess.run([sys.executable, "-c", UNUSED], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("lifespan.startup.complete lifespan.shutdown.complete\n", "")


FILE = """
import sys
from wsgiref.util import setup_testing_defaults
from django.conf import settings
settings.configure(
    SEGMENT_WRITE_KEY="KEY", SEGMENT_OPTIONS={"send": False}, ALLOWED_HOSTS=["*"], ROOT_URLCONF="__main__",
    MIDDLEWARE=["segment_async.django.SegmentMiddleware"],
)
import django
django.setup()
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse
from django.urls import path

urlpatterns = [path("file", lambda request: FileResponse(open(sys.argv[1], "rb")))]

class ServersFile:
    def __init__(self, file, size):
        self.close = file.close

environ = {"PATH_INFO": "/file", "wsgi.file_wrapper": ServersFile}
setup_testing_defaults(environ)
body = get_wsgi_application()(environ, lambda status, headers: None)
print(type(body).__name__)
body.close()
"""


def test_a_file_is_left_to_the_servers_own_way_of_sending_it() -> None:
    said = subprocess.run([sys.executable, "-c", FILE, __file__], capture_output=True, text=True, check=False)
    assert (said.stdout, said.stderr) == ("ServersFile\n", "")


CLOSED_EARLY = f"""
from wsgiref.util import setup_testing_defaults
from django.conf import settings
settings.configure(
    SEGMENT_WRITE_KEY="KEY", SEGMENT_OPTIONS={{"send": False}}, ALLOWED_HOSTS=["*"], ROOT_URLCONF="__main__",
    MIDDLEWARE=["segment_async.django.SegmentMiddleware"],
)
import django
django.setup()
from django.core.wsgi import get_wsgi_application
from django.http import StreamingHttpResponse
from django.urls import path
from segment_async.django import client

def parts():
    try:
        yield b"one"
        yield b"two"
    finally:
        client.track(event="Stream Left")

urlpatterns = [path("stream", lambda request: StreamingHttpResponse(parts()))]
environ = {{"PATH_INFO": "/stream", "HTTP_COOKIE": "ajs_anonymous_id={ANONYMOUS}"}}
setup_testing_defaults(environ)
body = get_wsgi_application()(environ, lambda status, headers: None)
print(next(iter(body)))
body.close()
print(dict(client.statistics().reasons))
"""


def test_a_stream_that_is_left_early_still_knows_who() -> None:
    said = subprocess.run([sys.executable, "-c", CLOSED_EARLY], capture_output=True, text=True, check=False)
    assert (said.stdout, said.stderr) == ("b'one'\n{'disabled': 1}\n", "")
