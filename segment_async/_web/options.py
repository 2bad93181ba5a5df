"""The options of all middleware: checked once, and made into what reads a request.

This file knows neither clients nor responses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from typing import Any, Final, Literal, TypedDict

from segment_async._hooks import HookRunner

from .consent import GPC, parse_preferences
from .page_views import EXCLUDED, exclusion
from .query import Mode
from .visitor import Hook, NoIdentity, RequestReader

_GPC_VALUES: Final = 'gpc must be "ignore", "drop", or True or False for each category, such as {"Advertising": False}'


class RequestOptions(TypedDict, total=False):
    """What `segment_async.asgi.SegmentMiddleware` takes under these names, with the same defaults."""

    trust_user_cookie: bool
    trusted_proxies: Iterable[str]
    no_identity: NoIdentity
    set_cookie: bool
    page_views: bool
    exclude: Iterable[str]
    bots: Literal["skip", "include"]
    query: Mode
    gpc: GPC


def reader_for(
    hooks: HookRunner,
    *,
    user_id: Hook = None,
    consent: Hook = None,
    trust_user_cookie: bool = False,
    trusted_proxies: Iterable[str] = (),
    no_identity: NoIdentity = "skip",
    set_cookie: bool = False,
    page_views: bool = False,
    exclude: Iterable[str] = EXCLUDED,
    bots: Literal["skip", "include"] = "skip",
    query: Mode = "scrub",
    gpc: GPC = "ignore",
) -> RequestReader:
    """Raises:
    ValueError: an option has none of its values, a function cannot be called, or a network is malformed.
    """
    check_functions(user_id=user_id, consent=consent)
    _check_flags(trust_user_cookie=trust_user_cookie, set_cookie=set_cookie, page_views=page_views)
    _check_words(no_identity=(no_identity, ("skip", "mint", "raise")), bots=(bots, ("skip", "include")))
    _check_words(query=(query, ("scrub", "utm", "none", "all")))
    if isinstance(gpc, Mapping):
        _check_preferences(gpc)
    elif gpc not in ("ignore", "drop"):
        raise ValueError(_GPC_VALUES)
    _check_lists(trusted_proxies=trusted_proxies, exclude=exclude)
    paths: list[Any] = [*exclude]
    if not all(isinstance(path, str) for path in paths):
        raise ValueError("exclude must be a list of strings, paths such as '/health' or '/admin/*'")
    return RequestReader(
        hooks,
        user_id=user_id,
        trust_user_cookie=trust_user_cookie,
        proxies=tuple(ip_network(network, strict=False) for network in trusted_proxies),
        no_identity=no_identity,
        set_cookie=set_cookie,
        page_views=page_views,
        excluded=exclusion(paths),
        skip_bots=bots == "skip",
        query=query,
        consent=consent,
        gpc=gpc if isinstance(gpc, str) else parse_preferences(gpc) or {},
    )


def check_functions(**hooks: Hook) -> None:
    """Raises:
    ValueError: one of them cannot be called.
    """
    for name, hook in hooks.items():
        if hook is not None and not callable(hook):
            raise ValueError(f"{name} must be a function")


def _check_flags(**flags: object) -> None:
    for name, flag in flags.items():
        # Text such as "no" would count as `True`.
        if not isinstance(flag, bool):
            raise ValueError(f"{name} must be True or False")  # noqa: TRY004  # as other options


def _check_preferences(gpc: Mapping[Any, Any]) -> None:
    if not all(isinstance(name, str) and isinstance(granted, bool) for name, granted in gpc.items()):
        raise ValueError(_GPC_VALUES)


def _check_words(**options: tuple[object, tuple[str, ...]]) -> None:
    for name, (word, words) in options.items():
        if word not in words:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, words))}")


def _check_lists(**options: Iterable[str]) -> None:
    for name, texts in options.items():
        # A single string would be taken as a list of its characters.
        if isinstance(texts, str):
            raise ValueError(f"{name} must be a list of strings, such as [{texts!r}]")  # noqa: TRY004  # as other options
        if not isinstance(texts, Iterable):
            raise ValueError(f"{name} must be a list of strings, not {type(texts).__qualname__}")  # noqa: TRY004  # as other options
