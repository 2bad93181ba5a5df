"""Servers that tests share, emptied for each of them, and servers of their own for those that break them."""

from collections.abc import Callable, Iterator

import pytest

from .servers import RealServer, binaries


@pytest.fixture(scope="session", params=list(binaries()))
def shared_server(request: pytest.FixtureRequest) -> Iterator[RealServer]:
    with RealServer(binaries()[request.param]) as server:
        yield server


@pytest.fixture
def server(shared_server: RealServer) -> RealServer:
    """A server with nothing in it, of each kind that there is."""
    shared_server.ask("FLUSHALL")
    return shared_server


@pytest.fixture
def start_server() -> Iterator[Callable[..., RealServer]]:
    """Starts a Valkey with these options; it ends with the test."""
    started: list[RealServer] = []

    def start(*options: str) -> RealServer:
        server = RealServer(binaries()["valkey"], *options)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.close()
