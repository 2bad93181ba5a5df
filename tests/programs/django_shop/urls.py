"""Pages and events, in sync views and async ones."""

from typing import Any

from django.http import HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.urls import path

from segment_async import bind
from segment_async.django import client
from tests.support.ledger import note


def shoes(request: Any, number: int) -> Any:
    return HttpResponse(f"<title>Shoes no. {number}</title>")


def order(request: Any) -> Any:
    client.track(event="Order Completed")
    return JsonResponse({"status": "paid"})


async def aorder(request: Any) -> Any:
    client.track(event="Order Completed")
    return JsonResponse({"status": "paid"})


def login(request: Any, name: str) -> Any:
    bind(user_id=name)
    client.identify(traits={"name": name})
    return JsonResponse({})


def stream(request: Any) -> Any:
    def parts() -> Any:
        yield "<title>Late"
        client.track(event="Streamed")
        yield "</title>"

    return StreamingHttpResponse(parts())


async def astream(request: Any) -> Any:
    async def parts() -> Any:
        yield "<title>Late"
        client.track(event="Streamed asynchronously")
        yield "</title>"

    return StreamingHttpResponse(parts())


def many(request: Any, count: int) -> Any:
    deliveries = [client.track("user", "Visited", {"n": number}) for number in range(count)]
    note(delivery.message_id for delivery in deliveries)
    return HttpResponse("noted", content_type="text/plain")


def away(request: Any) -> Any:
    return HttpResponseRedirect("/shoes/1")


urlpatterns = [
    path("shoes/<int:number>", shoes),
    path("orders", order),
    path("aorders", aorder),
    path("login/<str:name>", login),
    path("stream", stream),
    path("astream", astream),
    path("away", away),
    path("many/<int:count>", many),
]
