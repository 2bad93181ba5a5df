"""Servers that tests share, emptied for each of them, and servers of their own for those that break them."""

import os
from collections.abc import Callable, Iterator

import pytest

from .servers import RealServer, binaries

# `make relay-faults` tries everything on each server; else that is only done for what an engine must keep.
KINDS = list(binaries()) if "RELAY_SERVERS" in os.environ else ["valkey"]


@pytest.fixture(scope="session")
def shared_servers() -> Iterator[dict[str, RealServer]]:
    """Started when they are first used."""
    started: dict[str, RealServer] = {}
    yield started
    for server in started.values():
        server.close()


def emptied(started: dict[str, RealServer], kind: str) -> RealServer:
    if kind not in started:
        started[kind] = RealServer(binaries()[kind]).start()
    started[kind].ask("FLUSHALL")
    return started[kind]


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, shared_servers: dict[str, RealServer]) -> RealServer:
    """A server with nothing in it."""
    return emptied(shared_servers, request.param)


@pytest.fixture(params=list(binaries()))
def each_server(request: pytest.FixtureRequest, shared_servers: dict[str, RealServer]) -> RealServer:
    """The same, of each kind that there is."""
    return emptied(shared_servers, request.param)


@pytest.fixture(params=KINDS)
def start_server(request: pytest.FixtureRequest) -> Iterator[Callable[..., RealServer]]:
    """Starts a server with these options; it ends with the test."""
    started: list[RealServer] = []

    def start(*options: str) -> RealServer:
        server = RealServer(binaries()[request.param], *options)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.close()
