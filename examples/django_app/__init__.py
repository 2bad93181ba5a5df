"""Django on ASGI.

    pip install "segment-async" django uvicorn
    SEGMENT_WRITE_KEY=... uvicorn django_app.asgi:application

`asgi` wraps the middleware around Django, and opens and closes the client; `middleware` binds the logged-in user;
`settings` contains the key.
"""
