"""The options of all middleware: checked once, and made into what reads a request.

This file knows neither clients nor responses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from typing import Literal, TypedDict

from segment_async._hooks import HookRunner

from .consent import GPC, parse_preferences
from .page_views import EXCLUDED, exclusion
from .query import Mode
from .visitor import Hook, NoIdentity, RequestReader


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
    ValueError: an option has none of its values, or a network is malformed.
    """
    _check_words(no_identity=(no_identity, ("skip", "mint", "raise")), bots=(bots, ("skip", "include")))
    _check_words(query=(query, ("scrub", "utm", "none", "all")))
    if not isinstance(gpc, Mapping):
        _check_words(gpc=(gpc, ("ignore", "drop")))
    _check_lists(trusted_proxies=trusted_proxies, exclude=exclude)
    return RequestReader(
        hooks,
        user_id=user_id,
        trust_user_cookie=trust_user_cookie,
        proxies=tuple(ip_network(network, strict=False) for network in trusted_proxies),
        no_identity=no_identity,
        set_cookie=set_cookie,
        page_views=page_views,
        excluded=exclusion(exclude),
        skip_bots=bots == "skip",
        query=query,
        consent=consent,
        gpc=gpc if isinstance(gpc, str) else parse_preferences(gpc) or {},
    )


def _check_words(**options: tuple[object, tuple[str, ...]]) -> None:
    for name, (word, words) in options.items():
        if word not in words:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, words))}")


def _check_lists(**options: Iterable[str]) -> None:
    for name, texts in options.items():
        # A single string would be taken as a list of its characters.
        if isinstance(texts, str):
            raise ValueError(f"{name} must be a list of strings, such as [{texts!r}]")  # noqa: TRY004  # as other options
