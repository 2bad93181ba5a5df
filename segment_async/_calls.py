"""The six calls for code that does not await: `client.nowait`, and the blocking client.

Each builds its message and passes it on in one step. What happens to the message, and what the caller gets for it, is
the subclass's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, Generic, TypeVar

from ._exceptions import MessageError
from ._message import build as _build
from ._message.build import Fields, ObjectLike, Timestamp, UserID, checked
from ._pipeline.delivery import Delivery
from .events import TrackEvent
from .messages import Message

DeliveryT = TypeVar("DeliveryT")


class Calls(Generic[DeliveryT]):
    """The calls of a client, without await."""

    __slots__ = ()

    def _accept(self, message: Fields) -> DeliveryT:
        """Take a message that `_build` made."""
        raise NotImplementedError

    def _refuse(self, error: MessageError, given: Fields) -> DeliveryT:
        """What becomes of a message that Segment would drop, or that cannot be encoded; `given`: what is known of it."""
        raise NotImplementedError

    def _call(self, build: Callable[..., Fields], *args: Any, **kwargs: Any) -> DeliveryT:
        try:
            return self._accept(build(*args, **kwargs))
        except MessageError as error:
            return self._refuse(error, _given(build, args, kwargs))

    def track(
        self,
        user_id: UserID | None = None,
        event: str | TrackEvent | None = None,
        properties: ObjectLike | None = None,
        *,
        anonymous_id: UserID | None = None,
        context: ObjectLike | None = None,
        integrations: Mapping[str, Any] | None = None,
        timestamp: Timestamp | None = None,
        message_id: UserID | None = None,
    ) -> DeliveryT:
        """Record an action of a user (https://segment.com/docs/connections/spec/track/).

        Returns once the message is accepted, not once it is delivered.

        Args:
            user_id: the user's id in your database. This or `anonymous_id` is required, here or in `bound()`.
            event: the action's name, such as ``"Order Completed"``; or a generated event, which holds the properties.
            properties: details of the action.
            anonymous_id: an id for a user whom you don't know yet.
            context: facts about the situation, such as ``{"ip": "203.0.113.7"}``.
            integrations: destinations to switch on or off, such as ``{"All": False, "Mixpanel": True}``.
            timestamp: when it happened, a `datetime` or ISO 8601 text. `None`: now.
            message_id: Segment deduplicates by it. `None`: a new unique id.

        Raises:
            MessageError: Segment would drop the message; names the field.
            MessageTooLarge: it has more than 32,768 bytes of JSON, or more than `max_queue_bytes`.
            QueueFull: only under ``overflow="raise"``.
            SpoolUnavailable: only of `segment_async.blocking.Client`: the spool could not store the message; it was not
                accepted, unless `maybe_stored` is set.
            ClientClosed: the client is closed.
        """
        return self._call(
            _build.track,
            user_id,
            event,
            properties,
            anonymous_id=anonymous_id,
            context=context,
            integrations=integrations,
            timestamp=timestamp,
            message_id=message_id,
        )

    def identify(
        self,
        user_id: UserID | None = None,
        traits: ObjectLike | None = None,
        *,
        anonymous_id: UserID | None = None,
        context: ObjectLike | None = None,
        integrations: Mapping[str, Any] | None = None,
        timestamp: Timestamp | None = None,
        message_id: UserID | None = None,
    ) -> DeliveryT:
        """Record who a user is, with traits (https://segment.com/docs/connections/spec/identify/).

        It waits and raises as `track` does.

        Args:
            user_id: the user's id in your database. This or `anonymous_id` is required, here or in `bound()`.
            traits: facts about the user, such as ``{"email": "ada@example.com"}``.
            anonymous_id: an id for a user whom you don't know yet.
            context: facts about the situation, such as ``{"ip": "203.0.113.7"}``.
            integrations: destinations to switch on or off, such as ``{"All": False, "Mixpanel": True}``.
            timestamp: when it happened, a `datetime` or ISO 8601 text. `None`: now.
            message_id: Segment deduplicates by it. `None`: a new unique id.
        """
        return self._call(
            _build.identify,
            user_id,
            traits,
            anonymous_id=anonymous_id,
            context=context,
            integrations=integrations,
            timestamp=timestamp,
            message_id=message_id,
        )

    def page(
        self,
        user_id: UserID | None = None,
        category: str | None = None,
        name: str | None = None,
        properties: ObjectLike | None = None,
        *,
        anonymous_id: UserID | None = None,
        context: ObjectLike | None = None,
        integrations: Mapping[str, Any] | None = None,
        timestamp: Timestamp | None = None,
        message_id: UserID | None = None,
    ) -> DeliveryT:
        """Record a page view (https://segment.com/docs/connections/spec/page/).

        It waits and raises as `track` does.

        Args:
            user_id: the user's id in your database. This or `anonymous_id` is required, here or in `bound()`.
            category: a group of pages, such as ``"Docs"``.
            name: the page's name, such as ``"Pricing"``.
            properties: details of the page, such as ``{"url": "https://example.com/pricing"}``.
            anonymous_id: an id for a user whom you don't know yet.
            context: facts about the situation, such as ``{"ip": "203.0.113.7"}``.
            integrations: destinations to switch on or off, such as ``{"All": False, "Mixpanel": True}``.
            timestamp: when it happened, a `datetime` or ISO 8601 text. `None`: now.
            message_id: Segment deduplicates by it. `None`: a new unique id.
        """
        return self._call(
            _build.page,
            user_id,
            category,
            name,
            properties,
            anonymous_id=anonymous_id,
            context=context,
            integrations=integrations,
            timestamp=timestamp,
            message_id=message_id,
        )

    def screen(
        self,
        user_id: UserID | None = None,
        category: str | None = None,
        name: str | None = None,
        properties: ObjectLike | None = None,
        *,
        anonymous_id: UserID | None = None,
        context: ObjectLike | None = None,
        integrations: Mapping[str, Any] | None = None,
        timestamp: Timestamp | None = None,
        message_id: UserID | None = None,
    ) -> DeliveryT:
        """Record a screen view of a mobile app (https://segment.com/docs/connections/spec/screen/).

        It waits and raises as `track` does.

        Args:
            user_id: the user's id in your database. This or `anonymous_id` is required, here or in `bound()`.
            category: a group of screens.
            name: the screen's name.
            properties: details of the screen.
            anonymous_id: an id for a user whom you don't know yet.
            context: facts about the situation, such as ``{"ip": "203.0.113.7"}``.
            integrations: destinations to switch on or off, such as ``{"All": False, "Mixpanel": True}``.
            timestamp: when it happened, a `datetime` or ISO 8601 text. `None`: now.
            message_id: Segment deduplicates by it. `None`: a new unique id.
        """
        return self._call(
            _build.screen,
            user_id,
            category,
            name,
            properties,
            anonymous_id=anonymous_id,
            context=context,
            integrations=integrations,
            timestamp=timestamp,
            message_id=message_id,
        )

    def group(
        self,
        user_id: UserID | None = None,
        group_id: UserID | None = None,
        traits: ObjectLike | None = None,
        *,
        anonymous_id: UserID | None = None,
        context: ObjectLike | None = None,
        integrations: Mapping[str, Any] | None = None,
        timestamp: Timestamp | None = None,
        message_id: UserID | None = None,
    ) -> DeliveryT:
        """Record that a user belongs to a group (https://segment.com/docs/connections/spec/group/).

        It waits and raises as `track` does.

        Args:
            user_id: the user's id in your database. This or `anonymous_id` is required, here or in `bound()`.
            group_id: the id of the company, team or account. Required.
            traits: facts about the group, such as ``{"name": "Acme", "plan": "enterprise"}``.
            anonymous_id: an id for a user whom you don't know yet.
            context: facts about the situation, such as ``{"ip": "203.0.113.7"}``.
            integrations: destinations to switch on or off, such as ``{"All": False, "Mixpanel": True}``.
            timestamp: when it happened, a `datetime` or ISO 8601 text. `None`: now.
            message_id: Segment deduplicates by it. `None`: a new unique id.
        """
        return self._call(
            _build.group,
            user_id,
            group_id,
            traits,
            anonymous_id=anonymous_id,
            context=context,
            integrations=integrations,
            timestamp=timestamp,
            message_id=message_id,
        )

    def alias(
        self,
        previous_id: UserID | None = None,
        user_id: UserID | None = None,
        *,
        anonymous_id: UserID | None = None,
        context: ObjectLike | None = None,
        integrations: Mapping[str, Any] | None = None,
        timestamp: Timestamp | None = None,
        message_id: UserID | None = None,
    ) -> DeliveryT:
        """Record that two ids belong to one user (https://segment.com/docs/connections/spec/alias/).

        It waits and raises as `track` does.

        Args:
            previous_id: the id that the user had so far, such as an anonymous one. Required.
            user_id: the id that the user has from now on. Required.
            anonymous_id: an id for a user whom you don't know yet.
            context: facts about the situation, such as ``{"ip": "203.0.113.7"}``.
            integrations: destinations to switch on or off, such as ``{"All": False, "Mixpanel": True}``.
            timestamp: when it happened, a `datetime` or ISO 8601 text. `None`: now.
            message_id: Segment deduplicates by it. `None`: a new unique id.
        """
        return self._call(
            _build.alias,
            previous_id,
            user_id,
            anonymous_id=anonymous_id,
            context=context,
            integrations=integrations,
            timestamp=timestamp,
            message_id=message_id,
        )

    def enqueue(self, message: Message | Mapping[str, Any]) -> DeliveryT:
        """Send a message that `messages` built, or any dict of that shape. Otherwise like `track`."""
        return self._call(checked, message)


def _given(build: Callable[..., Fields], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Fields:
    """What a refused call was given."""
    if build is checked:
        return _build.given_message(*args)
    return _build.given(build.__name__, signature(build).bind(*args, **kwargs).arguments)


class NowaitCalls(Calls[Delivery]):
    """`client.nowait`: the calls of the asyncio client for code that cannot await, from any thread.

    Each does what `Client.enqueue_nowait` does with a message.
    """

    __slots__ = ("_enqueue_nowait", "_invalid")

    def __init__(
        self, enqueue_nowait: Callable[[Fields], Delivery], invalid: Callable[[MessageError, Fields], Delivery]
    ) -> None:
        self._enqueue_nowait = enqueue_nowait
        self._invalid = invalid

    def _accept(self, message: Fields) -> Delivery:
        return self._enqueue_nowait(message)

    def _refuse(self, error: MessageError, given: Fields) -> Delivery:
        return self._invalid(error, given)
