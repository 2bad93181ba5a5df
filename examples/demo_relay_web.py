"""A web process of `demo_relay.py`: each request is one event, handed over to Redis before it is answered.

    python examples/demo_relay_web.py REDIS_URL

Prints its address. It delivers nothing itself: `deliver=False`.
"""

import asyncio
import sys

from aiohttp import web

from segment_async import Client, SpoolUnavailable
from segment_async.relay import RedisSpool


async def serve(redis_url: str) -> None:
    client = Client("demo", spool=RedisSpool(redis_url), deliver=False)

    async def order(request: web.Request) -> web.Response:
        try:
            delivery = await client.track(request.query["user"], "Order Completed", {"total": 30.5})
        except SpoolUnavailable as error:
            # What a shop would do here is its own business: this one tells its customer to try again.
            return web.Response(status=503, text=str(error))
        return web.Response(text=delivery.message_id)

    application = web.Application()
    application.add_routes([web.post("/order", order)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
