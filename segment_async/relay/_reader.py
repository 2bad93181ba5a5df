"""A connection that blocks, for the command line and the metrics: what is in Redis for one write key.

Entries are read page by page, so that memory stays flat and no command holds the server up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

try:
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
    from redis.retry import Retry
except ImportError as _error:
    raise ImportError('segment_async.relay requires the extra "redis": pip install "segment-async[redis]"') from _error

from segment_async._exceptions import SpoolUnavailable

from ._entries import GROUP, Fields, info_of, keys_for, pairs_of
from ._server import check_redis, code_of

# Entries that one command is about.
PAGE: Final = 500
_SECONDS: Final = 10.0
_RAW: Final = ("HGETALL", "INFO", "XCLAIM", "XPENDING", "XRANGE", "XREVRANGE")


class Consumer(NamedTuple):
    """A relay, as Redis knows it; or ``released``, with what relays gave back; or one with entries for a newer version.

    Attributes:
        held: entries that it holds.
        idle: seconds since it last asked for something.
    """

    name: str
    held: int
    idle: float


class StreamReader:
    """Every method raises `SpoolUnavailable` if Redis does not answer.

    Attributes:
        fingerprint: of the write key; `keys`: the names of its keys.

    Raises:
        ValueError: it is no URL of a server.
    """

    def __init__(self, url: str, write_key: str | None) -> None:
        check_redis(url)
        make: Any = getattr(Redis, "from_url")  # noqa: B009  # its type is incomplete: hides it from the type checkers
        self._client: Any = make(
            url, retry=Retry(NoBackoff(), 0), protocol=2, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS
        )
        for command in _RAW:
            self._client.set_response_callback(command, _as_it_came)
        if write_key is not None:
            self.fingerprint: str = hashlib.sha256(write_key.strip().encode()).hexdigest()[:16]
        else:
            self.fingerprint = self._only_fingerprint()
        self.keys = keys_for(self.fingerprint)

    def _only_fingerprint(self) -> str:
        with _unavailable():
            names = [
                *self._client.scan_iter("segment:{*}:m", 1_000),
                *self._client.scan_iter("segment:{*}:dead", 1_000),
            ]
        found: list[str] = sorted({name.partition(b"{")[2].partition(b"}")[0].decode() for name in names})
        if len(found) != 1:
            what = "no messages of any write key" if not found else f"messages of {len(found)} write keys"
            raise SpoolUnavailable(f"Redis has {what}: set SEGMENT_WRITE_KEY")
        return found[0]

    def other_streams(self) -> list[bytes]:
        """The names of the streams of other write keys; none if the user may not look for them."""
        with suppress(RedisError):
            names: set[bytes] = {*self._client.scan_iter("segment:{*}:m", 1_000)}
            return sorted(names - {self.keys.messages})
        return []

    def close(self) -> None:
        self._client.close()

    def ask_all(self, *commands: Iterable[Any]) -> list[Any]:
        """The replies; a refusal is an exception among them."""
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        with _unavailable():
            replies: list[Any] = pipeline.execute(raise_on_error=False)
        return replies

    def ask(self, *command: Any) -> Any:
        """The reply.

        Raises:
            SpoolUnavailable: also if Redis refuses.
        """
        [reply] = self.ask_each(command)
        return reply

    def ask_each(self, *commands: Iterable[Any]) -> list[Any]:
        """The replies.

        Raises:
            SpoolUnavailable: also if Redis refuses any of the commands.
        """
        replies = self.ask_all(*commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise SpoolUnavailable(f"Redis refused: {reply}") from reply
        return replies

    def pages(self, stream: bytes, last: bytes = b"+") -> Iterator[list[Fields]]:
        """The entries of a stream up to `last`."""
        start = b"-"
        while True:
            entries = pairs_of(self.ask("XRANGE", stream, start, last, "COUNT", PAGE))
            if not entries:
                return
            yield entries
            start = b"(" + entries[-1][0]

    def ask_of_group(self, *command: Any) -> Any:
        """The reply about the relays' group; empty if no relay has run yet.

        Raises:
            SpoolUnavailable: also if Redis refuses.
        """
        [reply] = self.ask_all(command)
        if isinstance(reply, Exception) and (code_of(reply) == "NOGROUP" or str(reply) == "no such key"):
            return ()
        if isinstance(reply, Exception):
            raise SpoolUnavailable(f"Redis refused: {reply}") from reply
        return reply

    def consumers(self) -> tuple[Consumer, ...]:
        found = map(info_of, self.ask_of_group("XINFO", "CONSUMERS", self.keys.messages, GROUP))
        return tuple(Consumer(each[b"name"].decode(), each[b"pending"], each[b"idle"] / 1000) for each in found)


@contextmanager
def _unavailable() -> Generator[None, None, None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise SpoolUnavailable(f"Redis cannot be used: {error}") from error


def _as_it_came(reply: Any, **_options: Any) -> Any:
    return reply
