"""Django, here under ASGI.

    pip install "segment-async" django uvicorn
    SEGMENT_WRITE_KEY=... uvicorn django_app.asgi:application

`settings` contains the key and the middleware, `urls` the calls, and `asgi` what ASGI needs beyond them.
"""
