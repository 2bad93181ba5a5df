"""A Flask application that tracks so many events in a request as its path says, for WSGI servers."""

from flask import Flask

from segment_async.blocking import Client
from segment_async.flask import init_app
from tests.support.ledger import note

app = Flask("shop")
client = init_app(app, Client("KEY", flush_interval=60), no_identity="mint")


@app.get("/many/<int:count>")
def many(count: int) -> str:
    deliveries = [client.track(event="Visited", properties={"n": number}) for number in range(count)]
    note(delivery.message_id for delivery in deliveries)
    return "noted"
