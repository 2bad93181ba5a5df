"""Celery: a task's calls have the identity of the code that sent the task, and a worker sends everything before it ends.

    from segment_async.blocking import Client
    from segment_async.celery import connect

    client = Client("WRITE_KEY")
    connect(client)

in the module that both sides import: where tasks are sent, and in the workers, with any pool. The ids that are bound
where a task is sent (by a web middleware, or by `bound`) travel in the task's headers, and are bound while it runs.
"""

from __future__ import annotations

from contextlib import ExitStack
from threading import get_ident
from typing import Any, Final, cast

from . import bound
from ._checks import check_client, check_seconds
from ._hooks import HookRunner
from ._message.context import innermost
from .blocking import Client

try:
    from celery import signals as _signals  # pyright: ignore[reportMissingTypeStubs]
except ImportError as _error:
    raise ImportError("segment_async.celery needs Celery: pip install celery") from _error

__all__ = ["connect"]

# Celery has no types.
_celery: Any = _signals

# The task's header, and the fields that travel in it.
_HEADER: Final = "segment"
_FIELDS: Final = {"userId": "user_id", "anonymousId": "anonymous_id"}


def connect(client: Client, *, flush_after_task: float | None = None) -> None:
    """Carry identity from where tasks are sent to where they run, and drain the client when a worker ends.

    A call without any id in a task is dropped and counted (``no_identity``), not raised. Connecting twice is fine.

    Args:
        client: of this process; a worker's child process gets a thread of its own.
        flush_after_task: seconds that a task is held up after its end, until its messages are sent; for workers that
            are killed rather than shut down. `None`: messages are sent in the background.

    Raises:
        TypeError: the client is not a `segment_async.blocking.Client`.
        ValueError: `flush_after_task` is no number of seconds.
    """
    check_client("connect", client, Client)
    if flush_after_task is not None:
        check_seconds(flush_after_task=flush_after_task)
    _Connection(client, flush_after_task).connect()


class _Connection:
    def __init__(self, client: Client, flush_seconds: float | None) -> None:
        self._client = client
        self._flush_seconds = flush_seconds
        self._hooks = HookRunner()
        # By the task's id and thread: a broker may deliver a task again while it runs. A list, because a task that runs
        # eagerly may be retried within itself, with the same id.
        self._blocks: dict[tuple[str, int], list[ExitStack]] = {}

    def connect(self) -> None:
        for name, receiver in (
            ("before_task_publish", self._publish),
            ("task_prerun", self._begin),
            ("task_postrun", self._end),
            ("worker_process_shutdown", self._close),
            ("worker_shutdown", self._close),
        ):
            # The uid lets a second `connect` take the place of the first.
            signal = getattr(_celery, name)
            signal.disconnect(dispatch_uid="segment_async.connect")
            signal.connect(receiver, weak=False, dispatch_uid="segment_async.connect")

    def _publish(self, headers: dict[str, Any] | None = None, **_: Any) -> None:
        block = innermost.get()
        if block is None or headers is None or _HEADER in headers:
            return
        identity = {name: str(block.fields[field]) for field, name in _FIELDS.items() if field in block.fields}
        if identity:
            headers[_HEADER] = identity

    def _begin(self, task_id: str, task: Any, **_: Any) -> None:
        block = ExitStack()
        self._blocks.setdefault((task_id, get_ident()), []).append(block)
        try:
            block.enter_context(bound(**_identity(task.request), without_identity="drop"))
        except Exception as error:
            self._hooks.log_once("reading a task's identity", error)

    def _end(self, task_id: str, **_: Any) -> None:
        blocks = self._blocks.get((task_id, get_ident()))
        if blocks:
            blocks.pop().close()
            if not blocks:
                del self._blocks[task_id, get_ident()]
        if self._flush_seconds is None:
            return
        try:
            self._client.flush(timeout=self._flush_seconds)
        except Exception as error:
            self._hooks.log_once("flushing after a task", error)

    def _close(self, **_: Any) -> None:
        self._client.close()


def _identity(request: Any) -> dict[str, Any]:
    """The ids in a task's headers, which are attributes of its request; some brokers nest them once more."""
    sent: Any = getattr(request, _HEADER, None)
    if sent is None:
        nested: dict[str, Any] = getattr(request, "headers", None) or {}
        sent = nested.get(_HEADER)
    headers = cast("dict[str, Any]", sent if isinstance(sent, dict) else {})
    return {name: headers[name] for name in _FIELDS.values() if isinstance(headers.get(name), str)}
