"""The connections of a client: all of them are closed, whatever one of them does."""

import asyncio
from collections.abc import Mapping

import pytest

from segment_async import Response
from segment_async._lifecycle.connections import Connections
from segment_async._pipeline.auth import Basic


class Raising:
    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        return Response(200)

    async def aclose(self) -> None:
        raise OSError


class Noting(Basic):
    is_closed = False

    async def aclose(self) -> None:
        self.is_closed = True


def test_those_to_the_token_server_are_closed_although_a_transport_raises() -> None:
    async def main() -> None:
        auth = Noting("key")
        with pytest.raises(OSError):
            await Connections(Raising(), auth).aclose()
        assert auth.is_closed

    asyncio.run(main())
