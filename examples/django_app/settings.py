"""Minimal settings of a project; the relevant lines are those with SEGMENT, and the last middleware."""

import os

SEGMENT_WRITE_KEY = os.environ.get("SEGMENT_WRITE_KEY", "WRITE_KEY")
SEGMENT_OPTIONS = {"on_invalid": "drop"}
SEGMENT_MIDDLEWARE = {"page_views": True, "set_cookie": True}

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "segment_async.django.SegmentMiddleware",
]

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "for this example only")
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "django_app.urls"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("DJANGO_DATABASE", "shop.db")}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
