"""Passes the logged-in user and the route from Django to Segment's middleware. Works with sync and async views."""

from asgiref.sync import iscoroutinefunction
from django.utils.decorators import sync_and_async_middleware

from segment_async import bind


@sync_and_async_middleware
def segment(get_response):
    if iscoroutinefunction(get_response):

        async def middleware(request):
            note_user(await request.auser())
            response = await get_response(request)
            note_route(request)
            return response

    else:

        def middleware(request):
            note_user(request.user)
            response = get_response(request)
            note_route(request)
            return response

    return middleware


def note_user(user):
    if user.is_authenticated:
        bind(user_id=user.pk)


def note_route(request):
    if request.resolver_match is not None:
        request.scope["shop.route"] = "/" + request.resolver_match.route
