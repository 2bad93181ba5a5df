"""Django under ASGI: closes the client before the server ends the process."""

import os

from django.core.asgi import get_asgi_application

from segment_async.django import with_lifespan

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_app.settings")

application = with_lifespan(get_asgi_application())
