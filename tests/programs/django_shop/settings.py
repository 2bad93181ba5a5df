"""The settings; `SEGMENT_HOST` comes from the environment."""

SEGMENT_WRITE_KEY = "KEY"
SEGMENT_OPTIONS = {"flush_interval": 60}
SEGMENT_MIDDLEWARE = {"page_views": True, "set_cookie": True}
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "segment_async.django.SegmentMiddleware",
]
SECRET_KEY = "for the tests only"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.programs.django_shop.urls"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
USE_TZ = True
USE_I18N = False
