"""The server and whether it is reachable: exchanges with a time limit, and reconnecting in the background.

While it is out of reach every exchange is refused at once; one task probes it, and what waits for it is woken. Nothing
is ever sent twice by the client library: its own retries are switched off, as they would append messages again.

This file knows neither messages nor entries. It lives on the loop of the spool's thread.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

try:
    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import RedisClusterException, RedisError, ResponseError
    from redis.exceptions import TimeoutError as RedisTimeoutError
except ImportError as _error:
    raise ImportError('segment_async.relay requires the extra "redis": pip install "segment-async[redis]"') from _error

_log = logging.getLogger("segment_async")

# Seconds between two tries to reach the server: doubled each time.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
# Seconds that a try to reach the server may take.
_CONNECT_SECONDS: Final = 2.0
# Replies of a server that is not ready for writes: another one may be, or this one soon.
_NOT_READY: Final = frozenset(("READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "MISCONF", "NOREPLICAS", "TRYAGAIN"))
# The client library takes the code off the text of these.
_CODES: Final = {
    "BusyLoadingError": "LOADING",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "NoPermissionError": "NOPERM",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}


# The library's errors of a server that does not answer.
_NO_ANSWER: Final = (RedisError, RedisClusterException, OSError, TimeoutError, EOFError)


# The first word of an error; in what a script returns, Redis 6.2 has it behind the script's name.
_CODE: Final = re.compile("[A-Z]{3,}")


def code_of(error: Exception) -> str:
    """The code in an error reply."""
    found = _CODE.search(str(error))
    return _CODES.get(type(error).__name__) or (found[0] if found else "")


class Unreachable(Exception):
    """There was no reply. `maybe_done`: the commands may have been carried out anyway."""

    def __init__(self, text: str, *, maybe_done: bool) -> None:
        super().__init__(text)
        self.maybe_done = maybe_done


class Unsuitable(Exception):
    """The server must not be used as it is set up; the text says what to change."""


# Its type is incomplete.
_from_url: Any = getattr(Redis, "from_url")  # noqa: B009  # hides it from the type checkers


def check_redis(redis: str | Any) -> None:
    """Raises:
    ValueError: it is no URL of a server, and no client of `redis.asyncio` that can be used.
    """
    if isinstance(redis, str) and _has_unreadable_database(redis):
        raise ValueError("the URL of Redis must look like rediss://host:6379/0, with a number as the database")
    if isinstance(redis, str):
        # Not as its cause: the library's error may name the password.
        try:
            redis = _from_url(redis)
        except ValueError:
            redis = None
    if not isinstance(redis, (Redis, RedisCluster)):
        raise ValueError("redis must be a URL such as rediss://host:6379/0, or a client of redis.asyncio")  # noqa: TRY004  # as for all options
    client: Any = redis
    options = client.connection_kwargs if isinstance(redis, RedisCluster) else client.get_connection_kwargs()
    if options.get("decode_responses"):
        raise ValueError("the Redis client must be made without decode_responses=True: messages are bytes")


def _has_unreadable_database(url: str) -> bool:
    """The library would take the first database for it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if parts.scheme not in ("redis", "rediss") or "db" in parse_qs(parts.query):
        return False
    # As the library has it. Of more than one number it would make one.
    name = unquote(parts.path).strip("/")
    return name != "" and not (name.isascii() and name.isdecimal())


def make_client(redis: str | Any) -> Any:
    """The client for a URL, or the one that was given; without retries of its own, and with replies as they come."""
    retry = Retry(NoBackoff(), 0)
    client: Any = redis
    if isinstance(redis, str):
        options: dict[str, Any] = {} if redis.startswith("unix:") else {"socket_keepalive": True}
        # Each exchange has a limit of its own; the library's would be a timer for each reply.
        options["socket_timeout"] = None
        client = _from_url(redis, retry=retry, protocol=2, socket_connect_timeout=_CONNECT_SECONDS, **options)
    elif isinstance(redis, Redis):
        client.set_retry(retry)
    else:
        client.retry = retry
        # Versions before 6 count a pipeline's first try among these. Other commands name their node, and are not tried
        # again.
        client.cluster_error_retry_attempts = 1
    for command in ("HGETALL", "INFO", "XCLAIM", "XPENDING", "XRANGE", "XREADGROUP", "XREVRANGE"):
        # The library's parsers differ between its versions, and fail for some options.
        client.set_response_callback(command, _as_it_came)
    return client


def leave_connections(redis: str | Any) -> list[Any]:
    """In a forked child: have a ready client make connections of its own. Returns what it had, which must never be freed.

    Sockets, and what a loop waits for, are the parent's as well.
    """
    if isinstance(redis, str):
        return []
    client: Any = redis
    if isinstance(redis, RedisCluster):
        manager: Any = redis.nodes_manager
        nodes: list[Any] = [*manager.nodes_cache.values(), *manager.startup_nodes.values()]
        left: list[Any] = [node._connections for node in nodes]
        for node in nodes:
            node._connections, node._free = [], deque(maxlen=node.max_connections)
        parts = [client, manager]
    else:
        pools: list[Any] = [each.connection_pool for each in _clients_of(client)]
        left = [client.connection, *({**vars(pool)} for pool in pools)]
        client.connection = None
        for pool in pools:
            pool.reset()
        parts = [client, *pools]
    for part in parts:
        for name in (*getattr(part, "__dict__", ()), *getattr(part, "__slots__", ())):
            # The parent's thread may hold it.
            if isinstance(lock := getattr(part, name, None), (asyncio.Lock, asyncio.Condition)):
                setattr(part, name, type(lock)())
    return left


def _clients_of(client: Any) -> tuple[Any, ...]:
    """The client, and those of the Sentinels that it asks."""
    pool = getattr(client, "connection_pool", None)
    return (client, *getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()))


def _nodes_of(client: Any) -> dict[str, Any]:
    """The nodes that a cluster's client asks for all others, by name."""
    nodes: dict[str, Any] = client.nodes_manager.startup_nodes if isinstance(client, RedisCluster) else {}
    return nodes


def _as_it_came(reply: Any, **_options: Any) -> Any:
    return reply


def info_lines(reply: Any) -> dict[str, str]:
    """What ``INFO`` says."""
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
    pairs = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, _, value in pairs if name}


class Server:
    """Attributes:
    up: set while the server is reachable.
    why: the reason that it is out of reach, as text for people.
    is_unsuitable: it must not be used as it is set up.
    run: what the server calls the time since it was started; `None`: it does not say.
    """

    def __init__(
        self, redis: str | Any, key: bytes, prepare: Callable[[], Awaitable[None]], now: Callable[[], float]
    ) -> None:
        self.up = asyncio.Event()
        self.why = "it was not asked yet"
        self.run: str | None = None
        self.is_unsuitable = False
        self._redis = redis
        # One of the keys, all of which are in one node of a cluster.
        self._key = key
        self._client: Any = None
        self._nodes: dict[str, Any] = {}
        self._prepare = prepare
        self._now = now
        self._probe: asyncio.Task[None] | None = None
        self._is_closed = False
        self._down_since: float | None = None
        # Set once the server was tried since it was lost.
        self._was_asked = asyncio.Event()

    # -- exchanges

    async def ask(self, *command: Any, seconds: float) -> Any:
        """The reply to one command.

        Raises:
            Unreachable: there was none.
            ResponseError: the server refused the command.
        """
        [reply] = await self.ask_all([command], seconds=seconds)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def ask_all(self, commands: Sequence[Sequence[Any]], *, seconds: float) -> list[Any]:
        """The replies to commands, sent together and without a transaction; a refusal is an exception among them.

        Raises:
            Unreachable: there were none.
        """
        if not self.up.is_set() and asyncio.current_task() is not self._probe:
            raise Unreachable(self.why, maybe_done=False)
        return await self._exchange(commands, seconds)

    async def _exchange(self, commands: Sequence[Sequence[Any]], seconds: float) -> list[Any]:
        try:
            async with asyncio.timeout(seconds):
                if len(commands) == 1:
                    # Without a pipeline: a cluster's blocks no other connection, and the cost is less.
                    return [await self._one(commands[0])]
                pipeline = self._client.pipeline(transaction=False)
                options = await self._routing()
                for command in commands:
                    pipeline.execute_command(*command, **options)
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
                for reply in replies:
                    # With a cluster these are not raised.
                    if isinstance(reply, (RedisConnectionError, RedisTimeoutError)):
                        raise reply
        except _NO_ANSWER as error:
            text = _text_of(error, seconds)
            self.lose(text)
            # A server that is loading its data has replied, although the library calls it a lost connection.
            raise Unreachable(text, maybe_done=code_of(error) not in _NOT_READY) from None
        for reply in replies:
            self._look_at(reply)
        return replies

    async def _one(self, command: Sequence[Any]) -> Any:
        try:
            return await self._client.execute_command(*command, **await self._routing())
        except (RedisConnectionError, RedisTimeoutError):
            raise
        except ResponseError as refusal:
            self._look_at(refusal)
            return refusal

    async def _routing(self) -> dict[str, Any]:
        """With a cluster: the node that has the keys, also for what names none, as INFO and WAIT."""
        client: Any = self._client
        if not isinstance(client, RedisCluster):
            return {}
        cluster: Any = await client.initialize()
        return {"target_nodes": cluster.get_node_from_key(self._key)}

    def _look_at(self, reply: Any) -> None:
        if isinstance(reply, RedisError) and code_of(reply) in _NOT_READY:
            self.lose(str(reply))

    # -- out of reach, and back

    async def reach(self, seconds: float) -> bool:
        """Whether the server is reachable; waits for one try to reach it, at most so long."""
        if not (self.up.is_set() or self._was_asked.is_set()):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._was_asked.wait()
        return self.up.is_set()

    def lose(self, why: str) -> None:
        """The server is out of reach from now on: probe it until it answers."""
        self.why = why
        self.up.clear()
        self._was_asked.clear()
        if not self._is_closed and (self._probe is None or self._probe.done()):
            self._probe = asyncio.get_running_loop().create_task(self._find())

    async def _find(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                if self._client is None:
                    self._client = make_client(self._redis)
                    self._nodes = _nodes_of(self._client).copy()
                else:
                    await self._disconnect()
                await self._prepare()
            except Unsuitable as reason:
                self._note_failure(str(reason))
                self.is_unsuitable = True
            except (*_NO_ANSWER, Unreachable) as error:
                self._note_failure(_text_of(error, _CONNECT_SECONDS))
            except Exception as error:
                # A ready client's own code, such as a credential provider.
                self._note_failure(f"{type(error).__qualname__} while connecting")
            else:
                self._note_success()
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _note_failure(self, why: str) -> None:
        self.up.clear()
        self.is_unsuitable = False
        if self._down_since is None or why != self.why:
            self._down_since = self._down_since or self._now()
            _log.warning("Redis cannot be used and is tried again: %s", why)
        self.why = why
        self._was_asked.set()

    def _note_success(self) -> None:
        if self._down_since is not None:
            _log.info("Redis is back after %.1f s.", self._now() - self._down_since)
            self._down_since = None
        self.up.set()
        self._was_asked.set()

    async def _disconnect(self) -> None:
        """Forget connections: a name may lead to another server by now."""
        pool = getattr(self._client, "connection_pool", None)
        if pool is not None:
            await pool.disconnect(inuse_connections=False)
        # Early versions also forget each node of a cluster that did not answer, and with the last one how to come back.
        _nodes_of(self._client).update(self._nodes)

    async def aclose(self) -> None:
        self._is_closed = True
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait((self._probe,))
        self.up.clear()
        if self._client is not None:
            for client in _clients_of(self._client):
                # It may be gone already.
                with suppress(RedisError, OSError):
                    await client.aclose()


def _text_of(error: BaseException, seconds: float) -> str:
    """What went wrong, without what a URL may contain: the library's texts name host and port alone."""
    if isinstance(error, TimeoutError) and not str(error):
        return f"no reply within {seconds:g} s"
    return str(error) or type(error).__qualname__
