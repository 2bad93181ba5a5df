"""Pages and events, in async views and in a sync one. The middleware makes the page views."""

from django.contrib.auth import alogin, get_user_model
from django.http import HttpResponse, JsonResponse
from django.urls import path

from segment_async import bind
from segment_async.django import client


async def shoes(request, number):
    return HttpResponse(f"<title>Shoes no. {number}</title>Comfortable.")


async def order(request):
    client.track(event="Order Completed", properties={"total": 30.5})
    return JsonResponse({"status": "paid"})


def prices(request):
    client.track(event="Prices Seen")
    return JsonResponse({"shoes": 30.5})


async def log_in(request, name):
    """Logs in any user without a password: do not copy this view."""
    user, _ = await get_user_model().objects.aget_or_create(username=name)
    await alogin(request, user)
    bind(user_id=user.pk)
    client.identify(traits={"username": name})
    return JsonResponse({"hello": name})


urlpatterns = [
    path("shoes/<int:number>", shoes),
    path("orders", order),
    path("prices", prices),
    path("login/<str:name>", log_in),
]
