"""Wraps Segment's middleware around Django, and keeps the client open while the server runs."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_app.settings")
django = get_asgi_application()  # first, because it sets Django up

from segment_async.asgi import SegmentMiddleware  # noqa: E402

from .segment import client  # noqa: E402

requests = SegmentMiddleware(
    django, client, page_views=True, page_name=lambda scope: scope.get("shop.route"), set_cookie=True
)


async def application(scope, receive, send):
    if scope["type"] != "lifespan":
        await requests(scope, receive, send)
        return
    # Django does not support lifespan events.
    await receive()
    async with client:
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})
