"""What a message passes before it is queued: the fields bound around the call, the hook, the encoding.

Or it is dropped at once: what `before_send` or `on_invalid` drops, or a client without sending. This file does not queue.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import orjson

from ._exceptions import MessageError, QueueFull, SpoolUnavailable, stack_of
from ._lifecycle.owner import LoopOwner
from ._message.build import Fields, checked
from ._message.context import Bound, innermost
from ._message.conversions import Conversion
from ._message.defaults import MessageDefaults
from ._message.encode import encode, encode_leniently, own_fragment, plain
from ._message.ids import stamp
from ._options import BeforeSend
from ._pipeline.delivery import Delivery
from ._plan_check import PlanCheck
from ._version import __version__
from .messages import Defaults, body_of, too_large

# Encoded once: 0.1 µs of each call.
_LIBRARY_FIELDS: Final = {"name": "segment-async", "version": __version__}
_LIBRARY: Final = own_fragment(orjson.dumps(_LIBRARY_FIELDS))
_CONTEXT: Final = {"library": _LIBRARY}
# For a context whose members are encoded already.
_CONTEXT_JSON: Final = b'{%%b,"library":%b}' % orjson.dumps(_LIBRARY_FIELDS)


class Outgoing:
    """Completes and encodes the messages of one client."""

    def __init__(
        self,
        owner: LoopOwner,
        *,
        max_bytes: int,
        before_send: BeforeSend | None,
        send: bool,
        drops_invalid: bool,
        convert: Conversion,
        defaults: Defaults | None,
        plan_check: PlanCheck | None,
    ) -> None:
        self._owner = owner
        self._max_bytes = max_bytes
        self._before_send = before_send
        self._send = send
        self._drops_invalid = drops_invalid
        self._convert = convert
        self._defaults = None if defaults is None else MessageDefaults(defaults, convert)
        self._plan_check = plan_check
        # Nothing is done with a message beyond encoding and sending it.
        self._is_plain = send and before_send is None and defaults is None and plan_check is None

    def not_taken(self, error: QueueFull | SpoolUnavailable, delivery: Delivery, body: bytes) -> Delivery | None:
        """The delivery of a message that the spool cannot store, and that is dropped; `None`: the call is to raise."""
        pipeline = self._owner.pipeline
        if isinstance(error, QueueFull) or not self._drops_invalid:
            pipeline.admission.reject()
            return None
        pipeline.reports.limited_log.warn(
            "spool_unavailable", "Dropping messages that the spool cannot store: %s", error
        )
        # It may be stored, and then it is delivered.
        return self._dropped(delivery.message_id, "spool_unavailable", body, possibly_delivered=error.maybe_stored)[0]

    def encoded(self, message: Fields) -> tuple[Delivery, bytes, int]:
        """The message's delivery, its JSON, and the size of that; no JSON if it was dropped at once."""
        block = innermost.get()
        if block is None and self._is_plain and "userId" in message:
            # The ordinary case, in few steps.
            message["context"] = message["context"] | _CONTEXT if "context" in message else _CONTEXT
            body = encode(message, self._convert)
            size = len(body)
            if size > self._max_bytes:
                raise too_large(body, self._max_bytes)
        else:
            message, body, reason = self._completed(message, block)
            size = len(body)
            if reason is not None:
                return *self._dropped(message["messageId"], reason, body), 0
        # A copy, of the message's own size: orjson's buffer is ten times as large, and best used again at once.
        body = b"%b" % body
        return Delivery(message["messageId"], body, self._owner.pipeline.queue.queued), body, size

    def _completed(self, message: Fields, block: Bound | None) -> tuple[Fields, bytes, str | None]:
        """The message with what is bound around it, after the hook; its JSON; and the reason to drop it at once."""
        context = b""
        if block is not None:
            message, context = block.completed(message, self._before_send is not None or self._defaults is not None)
        if self._defaults is not None:
            message = self._defaults.filled(message)
        if not context:
            message["context"] = message["context"] | _CONTEXT if "context" in message else _CONTEXT
        if "userId" not in message and _lacks_identity(message):
            return message, self._without_identity(message, context, block), "no_identity"
        if self._before_send is None:
            body = encode(message, self._convert)
            body = b'%b,"context":%b}' % (body[:-1], _CONTEXT_JSON % context) if context else body
        else:
            # In JSON's own types: the hook gets nothing of the caller's, and nothing that can be read only once.
            given = plain(message, self._convert)
            given["context"]["library"] = _LIBRARY_FIELDS.copy()
            # The call is judged before the hook: a wrong one is the caller's to mend.
            body = body_of(given)
            changed = self._changed(self._before_send, given, given["messageId"])
            if changed is None:
                return message, body, "before_send"
            message, body = changed
        if len(body) > self._max_bytes:
            raise too_large(body, self._max_bytes)
        if self._plan_check is not None:
            self._plan_check.check(body)
        return message, body, None if self._send else "disabled"

    def _without_identity(self, message: Fields, context: bytes, block: Bound | None) -> bytes:
        """The JSON of a message without an id that says whose it is; it is dropped.

        Raises:
            MessageError: no enclosing block drops such messages.
        """
        if block is None or not block.drops_without_identity:
            raise _no_identity(message)
        self._owner.pipeline.reports.limited_log.warn_once(
            "no_identity",
            "Dropping a message without a user_id and an anonymous_id, as is the default in web requests and tasks: pass "
            "one to the call, or bind() it. This is logged once; client.statistics().reasons counts them as no_identity.",
        )
        if context:
            message["context"] = orjson.loads(_CONTEXT_JSON % context)
        return body_of(message, self._convert)

    def _changed(self, before_send: BeforeSend, message: Fields, message_id: str) -> tuple[Fields, bytes] | None:
        """What the application's hook makes of the message, and its JSON; `None`: drop it."""
        hook_ended = False
        try:
            changed = before_send(message)
            hook_ended = True
            if changed is None:
                return None
            message = checked(changed, message_id)
            message["context"] = message.get("context", {}) | _CONTEXT
            if _lacks_identity(message):
                raise _no_identity(message)
            return message, body_of(message, self._convert)
        except (Exception, asyncio.CancelledError) as error:
            # A plain function cannot be cancelled: it met a cancelled future of its own.
            # The hook's own error may have a text with values of the message; ours has none.
            what = f"It returned a wrong message: {error}" if hook_ended and isinstance(error, MessageError) else ""
            self._owner.pipeline.reports.limited_log.warn_once(
                "before_send",
                "before_send failed; its messages are dropped. This is logged once.\n%s",
                what or stack_of(error),
            )
            return None

    def invalid(self, error: MessageError, given: Fields) -> tuple[Delivery, bytes]:
        """What `on_invalid` makes of a message that Segment would drop, or that cannot be encoded.

        `given`: what the call was given of it.

        Raises:
            MessageError: under ``on_invalid="raise"``.
            ClientClosed: once closed.
        """
        if not self._drops_invalid:
            self._owner.pipeline.admission.reject()
            raise error
        now, new_id = stamp(time.time())
        message = {"timestamp": now, "messageId": new_id, **given}
        dropped = self._dropped(message["messageId"], "invalid", encode_leniently(message, self._convert))
        self._owner.pipeline.reports.limited_log.warn(
            "invalid",
            "Dropping a message that Segment would drop: %s. "
            "This is logged once a minute; client.statistics().reasons counts them as invalid.",
            error,
        )
        return dropped

    def _dropped(
        self, message_id: str, reason: str, body: bytes, *, possibly_delivered: bool = False
    ) -> tuple[Delivery, bytes]:
        """Accepted, counted, and settled at once.

        Raises:
            ClientClosed: once closed.
        """
        pipeline = self._owner.pipeline
        pipeline.admission.check_open()
        return pipeline.dropped(message_id, reason, body, possibly_delivered=possibly_delivered), b""


def _no_identity(message: Fields) -> MessageError:
    if message["type"] == "alias":
        return MessageError("userId", "an alias needs the user_id that the previous one becomes")
    return MessageError("userId", "a message needs a user_id or an anonymous_id, from the call or from bound()")


def _lacks_identity(message: Fields) -> bool:
    return "userId" not in message and ("anonymousId" not in message or message["type"] == "alias")
