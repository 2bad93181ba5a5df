"""The project for a server that speaks ASGI."""

import os

from django.core.asgi import get_asgi_application

from segment_async.django import with_lifespan

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.programs.django_shop.settings")
application = with_lifespan(get_asgi_application())
