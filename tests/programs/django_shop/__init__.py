"""A Django project with the middleware of `segment_async.django`, for WSGI and ASGI servers."""
