"""The permissions that docs/relay.md names are enough for hosts, relays and the command line, on a real server."""

import asyncio
import re
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from segment_async import Client, SpoolUnavailable
from segment_async.relay import RedisSpool, RelayInspector
from segment_async.relay._entries import info_of
from segment_async.testing import RecordingTransport

from .servers import RealServer
from .stage import until

PAGE = Path(__file__).parents[2] / "docs" / "relay.md"
LEASE = 2.0


def url_for(server: RealServer, user: str) -> str:
    return f"unix://segment-{user}@{server.socket}?password=PASSWORD"


@pytest.fixture
def with_users(server: RealServer) -> RealServer:
    lines = re.findall(r"^ACL SETUSER .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        assert server.ask(*line.split()) in (b"OK", True)
    return server


def test_a_host_a_relay_and_an_administrator_get_along(with_users: RealServer) -> None:
    async def main() -> None:
        server = with_users
        # With what is optional, so that the permissions for that are tried as well.
        spool = RedisSpool(url_for(server, "host"))
        async with Client("key", spool=spool, deliver=False) as host:
            await spool.connect()
            ids = [(await host.track("user-1", "Order Completed")).message_id for _ in range(20)]
            refused = (await host.track("user-1", "Refused")).message_id
            transport = RecordingTransport()
            of_relay = RedisSpool(url_for(server, "relay"), lease=LEASE, rate=10_000)
            async with Client("key", spool=of_relay, transport=transport, flush_interval=0.05):
                await until(
                    lambda: {*ids, refused} <= {each["messageId"] for each in transport.messages}, "they arrive"
                )
            with RelayInspector(url_for(server, "admin"), lease=LEASE) as inspector:
                status = inspector.status()
                assert (status.backlog, [each.name for each in status.consumers]) == (0, [])
                assert inspector.repair() == 0
                assert list(inspector.pending()) == []
                assert inspector.retry(lambda _letter: True) == 0
                assert inspector.purge("user-1") == 0
                assert inspector.problems()

    with_users.ask("ACL", "LOG", "RESET")
    asyncio.run(main())
    refused = [info_of(each)[b"object"] for each in with_users.ask("ACL", "LOG")]
    # The client library says what it is; it takes no for an answer.
    assert [each for each in refused if each != b"client|setinfo"] == []


def test_they_may_do_nothing_else(with_users: RealServer) -> None:
    for user in ("host", "relay", "admin"):
        with Redis.from_url(url_for(with_users, user)) as client:
            for command in (("GET", "session:1"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*")):
                with pytest.raises(NoPermissionError):
                    client.execute_command(*command)


def test_what_may_not_be_looked_at_is_not_taken_for_none(with_users: RealServer) -> None:
    """`relay check` would find no problems, because it was refused."""
    look_at_messages = ("+info", "+xlen", "+xrange", "+time")
    with_users.ask("ACL", "SETUSER", "segment-auditor", "on", ">PASSWORD", "~segment:*", *look_at_messages)
    with RelayInspector(url_for(with_users, "auditor"), "key") as inspector:
        stream = f"segment:{{{inspector.fingerprint}}}:m"
        with_users.ask("XADD", stream, "*", "i", "order-1", "b", "{}")
        for look in (inspector.status, inspector.problems, inspector.repair, lambda: list(inspector.pending())):
            with pytest.raises(SpoolUnavailable, match="permission"):
                look()
