"""The project's client; it opens itself, and `asgi` closes it."""

from django.conf import settings

from segment_async import Client

client = Client(settings.SEGMENT_WRITE_KEY)
