"""What stands around a code block when it is run: what a page leaves out, and what shows that the block works."""

from typing import Final

CLIENT: Final = 'from segment_async import Client\nclient = Client("WRITE_KEY")\n'
FASTAPI: Final = "from fastapi import FastAPI\nfrom segment_async.asgi import SegmentMiddleware\napp = FastAPI()\n"
DJANGO: Final = (
    'from django.conf import settings\nsettings.configure(SEGMENT_WRITE_KEY="WRITE_KEY", ALLOWED_HOSTS=["*"])\n'
)
# The page's project, in one module, and what pytest-django gives a test.
DJANGO_PROJECT: Final = """
import sys, types
from django.conf import settings
settings.configure(
    SEGMENT_WRITE_KEY="WRITE_KEY", ALLOWED_HOSTS=["*"], ROOT_URLCONF="shop.views",
    MIDDLEWARE=["segment_async.django.SegmentMiddleware"],
)
sys.modules["shop"] = shop = types.ModuleType("shop")
sys.modules["shop.views"] = shop.views = types.ModuleType("shop.views")
exec('''
from django.http import JsonResponse
from django.urls import path
from segment_async.django import client
def order(request):
    client.track(event="Order Completed", properties={"total": 30.5})
    return JsonResponse({"status": "paid"})
urlpatterns = [path("orders", order)]
''', vars(shop.views))
"""
DJANGO_TEST: Final = """
import django, pytest
from django.test import Client
from segment_async.testing import recording
django.setup()
with recording() as segment, pytest.MonkeyPatch.context() as monkeypatch:
    test_an_order_is_tracked(segment, monkeypatch, Client())
"""
SENDING: Final = """
import asyncio
async def main():
    async with client:
        await client.track("user-1", "Seen")
asyncio.run(main())
"""
# Not every message has what a `track` call has.
LOSING: Final = """
import types
from segment_async import messages
refused = types.SimpleNamespace(outcome=types.SimpleNamespace(reason="refused"))
report(refused, [messages.identify("user-1"), messages.track("user-1", "Seen")])
"""
ORDER_BY_FASTAPI: Final = """
from fastapi.testclient import TestClient
with TestClient(app) as http:
    http.cookies.set("ajs_anonymous_id", "visitor-7")
    assert http.post("/orders").status_code == 200
"""
ORDER_BY_FLASK: Final = """
http = app.test_client()
http.set_cookie("ajs_anonymous_id", "visitor-7")
assert http.post("/orders").status_code == 200
"""
LAMBDA: Final = """
class Context:
    def get_remaining_time_in_millis(self):
        return 9_000
handler({"user": "user-1"}, Context())
"""
MANGUM: Final = """
class Context:
    def get_remaining_time_in_millis(self):
        return 9_000
request = {
    "version": "2.0", "routeKey": "$default", "rawPath": "/orders", "rawQueryString": "",
    "headers": {"cookie": "ajs_anonymous_id=visitor-1", "host": "shop.example", "user-agent": "Firefox"},
    "requestContext": {"http": {"method": "POST", "path": "/orders", "sourceIp": "203.0.113.9"}, "stage": "$default"},
    "isBase64Encoded": False,
}
assert handler(request, Context())["statusCode"] == 200
"""
# Makes the files and variables of the page: a key pair, and the local endpoint as the token server.
OAUTH: Final = """
import os
from pathlib import Path
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
formats = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
Path("segment-private-key.pem").write_bytes(key.private_bytes(*formats))
os.environ |= {"SEGMENT_CLIENT_ID": "client-1", "SEGMENT_KEY_ID": "key-1"}
import functools, segment_async
segment_async.OAuth = functools.partial(segment_async.OAuth, auth_server=os.environ["SEGMENT_HOST"])
"""
CERTIFICATE: Final = 'import trustme\ntrustme.CA().cert_pem.write_to_path("internal-ca.pem")\n'
# The page's own transport, with the local endpoint in the place of Jitsu.
OWN_TRANSPORT: Final = """
import os, segment_async
def of_this_test(url, **options):
    return original(url.replace("https://use.jitsu.com", os.environ["SEGMENT_HOST"]), **options)
original, segment_async.HTTPTransport = segment_async.HTTPTransport, of_this_test
"""
# The page's own key; nothing of it is asked for.
KEY: Final = 'import os\nos.environ["SEGMENT_WRITE_KEY"] = "WRITE_KEY"\n'

# Ends the program as a supervisor does, once it has begun.
TERMINATED: Final = """
import asyncio, os, signal
class Event(asyncio.Event):
    async def wait(self):
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
        return await super().wait()
asyncio.Event = Event
"""

BEFORE: Final = {
    "app": FASTAPI,
    "certificate": CERTIFICATE,
    "client": CLIENT,
    "django": DJANGO,
    "django-middleware": "MIDDLEWARE = []\n",
    "django-settings": DJANGO,
    "django-test": DJANGO_PROJECT,
    "key": KEY,
    "oauth": OAUTH,
    "own-transport": OWN_TRANSPORT,
    "terminated": TERMINATED,
}
AFTER: Final = {
    "celery": '\napp.conf.task_always_eager = True\npay("A-1001", "user-1")\n',
    "cloud-run": ORDER_BY_FASTAPI,
    "django": '\nfrom segment_async import bound\nwith bound(user_id="user-1"):\n    order(None)\n',
    "django-test": DJANGO_TEST,
    "fastapi": ORDER_BY_FASTAPI,
    "flask": ORDER_BY_FLASK,
    "flask-login": '\nassert app.test_client().post("/login").status_code == 200\n',
    "lambda": LAMBDA,
    "loses": LOSING,
    "mangum": MANGUM,
    "sends": SENDING,
}
