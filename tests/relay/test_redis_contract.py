"""The Redis engine keeps what every spool must keep, on each server that there is."""

import asyncio

import pytest

from segment_async.relay import RedisSpool
from segment_async.spool import Spool
from tests.spool.contract import SpoolContract

from .servers import RealServer


class TestRedis(SpoolContract):
    shared = True

    @pytest.fixture(autouse=True)
    def on_a_server(self, each_server: RealServer) -> None:
        self.open = lambda folder: RedisSpool(each_server.url, append_timeout=20.0)

    async def has_nothing_to_read(self, spool: Spool) -> bool:
        """Redis is asked for something twice: the answers come in the order in which it was asked."""
        waiting = asyncio.ensure_future(spool.read(1, 1))
        try:
            async with asyncio.timeout(0.1):
                return not (await asyncio.shield(waiting)).messages
        except TimeoutError:
            return True
        finally:
            waiting.cancel()
