"""Django on ASGI.

    pip install "segment-async" django uvicorn
    SEGMENT_WRITE_KEY=... uvicorn django_app.asgi:application

`asgi` puts the middleware around Django, and opens and closes the client; `middleware` tells it who has logged in;
`settings` holds the key.
"""
