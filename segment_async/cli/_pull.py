"""Reads a tracking plan from Segment's Public API (https://docs.segmentapis.com/tag/Tracking-Plans).

The token goes to the given host and, after a redirect, only to `https://*.segmentapis.com`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final, cast

import aiohttp
from yarl import URL

from segment_async._http.origin import is_loopback

HOST: Final = "https://api.segmentapis.com"
_PAGE: Final = 200  # the most rules that Segment gives at once
_REDIRECTS: Final = 5
_RETRIES: Final = 5
_MAX_PAUSE: Final = 60.0
_TIMEOUT: Final = aiohttp.ClientTimeout(total=60)


class PullError(Exception):
    """The plan could not be read; the text says why, and never has the token in it."""


async def pull(plan_id: str, token: str, host: str = HOST) -> dict[str, Any]:
    """The plan and all its rules, sorted, with every field that Segment gives.

    Raises:
        PullError: Segment refused, or the answer is no plan, or not all of it.
    """
    async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=True) as session:
        api = _API(session, token, _url(host))
        about = await api.get(f"tracking-plans/{plan_id}", {})
        rules: list[dict[str, Any]] = []
        query, seen = {"pagination.count": str(_PAGE)}, set[str]()
        while True:
            page = await api.get(f"tracking-plans/{plan_id}/rules", query)
            rules.extend(_rules_of(page))
            given = page.get("pagination")
            pagination = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
            seen |= {str(pagination.get("current")), query.get("pagination.cursor", "")}
            following = str(pagination.get("next") or "")
            if not following:
                break
            if following in seen:
                raise PullError("Segment named a page a second time, so that it is not known whether all rules came")
            query = {**query, "pagination.cursor": following}
    _check_complete(rules, pagination.get("totalEntries"))
    return {"trackingPlan": about.get("trackingPlan", {}), "rules": sorted(rules, key=_order)}


def _url(host: str) -> URL:
    try:
        return URL(host)
    except ValueError:
        raise PullError("--host is not an address of a server") from None


def _rules_of(page: dict[str, Any]) -> list[dict[str, Any]]:
    given: object = page.get("rules", "")
    rules = [] if given is None else cast("list[object]", given) if isinstance(given, list) else [given]
    if not all(isinstance(rule, dict) for rule in rules):
        raise PullError("Segment answered without rules, or with something else in their place")
    return cast("list[dict[str, Any]]", rules)


def _check_complete(rules: list[dict[str, Any]], total: object) -> None:
    counts = Counter(map(_order, rules))
    (kind, key, version), count = counts.most_common(1)[0] if counts else (("", "", 0), 0)
    if count > 1:
        name = f"{kind} “{key}”" if key else kind
        raise PullError(f"{name} version {version} came twice: the plan may have changed meanwhile; pull it again")
    if isinstance(total, int) and len(rules) < total:
        raise PullError(f"{len(rules):,} of {total:,} rules came; nothing is written; pull it again")


def is_readable(host: str) -> bool:
    """Whether others on the way could read the token."""
    url = _url(host)
    return url.scheme == "http" and not is_loopback(url.host or "")


def _order(rule: dict[str, Any]) -> tuple[str, str, int]:
    version = rule.get("version")
    return str(rule.get("type")), str(rule.get("key") or ""), version if isinstance(version, int) else 0


class _API:
    def __init__(self, session: aiohttp.ClientSession, token: str, origin: URL) -> None:
        self._session = session
        self._token = token
        self._origin = origin

    async def get(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        """The `data` of the answer."""
        for _ in range(_RETRIES):
            answer, pause = await self._follow((self._origin / path).with_query(query))
            if pause is None:
                return answer
            await asyncio.sleep(pause)
        raise PullError("Segment allows 200 requests a minute and refuses more; try again in a minute")

    async def _follow(self, url: URL) -> tuple[dict[str, Any], float | None]:
        """The answer behind all redirects, or the seconds to wait before the next attempt."""
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        for _ in range(_REDIRECTS):
            self._check(url)
            try:
                async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                    if response.status in (301, 302, 303, 307, 308):
                        url = _joined(url, response.headers.get("Location", ""))
                        continue
                    if response.status == 429:
                        return {}, _pause(response.headers.get("Retry-After", ""))
                    return await _data(response), None
            except (aiohttp.ClientError, TimeoutError) as error:
                raise PullError(
                    f"no answer from {url.host} ({type(error).__name__}): check the network, and --host"
                ) from None
        raise PullError(f"more than {_REDIRECTS} redirects, the last to {url.host}")

    def _check(self, url: URL) -> None:
        if not url.absolute or url.scheme not in ("http", "https"):
            raise PullError(f"not an address of a server: {url}")
        is_segment = url.scheme == "https" and f".{url.host}".endswith(".segmentapis.com")
        if url.origin() != self._origin.origin() and not is_segment:
            raise PullError(f"redirected to {url.host}, which does not get the token")


def _joined(url: URL, location: str) -> URL:
    try:
        return url.join(URL(location))
    except ValueError:
        raise PullError(f"{url.host} redirected to something other than an address") from None


async def _data(response: aiohttp.ClientResponse) -> dict[str, Any]:
    host, status = response.url.host, response.status
    if status in (401, 403):
        raise PullError(f"{host} answered {status}: the token is wrong, or may not read tracking plans")
    if status == 404:
        raise PullError(f"{host} answered 404: there is no such tracking plan in the token's workspace")
    if status != 200:
        raise PullError(f"{host} answered {status}")
    try:
        body: object = await response.json(content_type=None)
    except (ValueError, RecursionError):
        raise PullError(f"{host} answered with something other than JSON") from None
    data = cast("dict[str, Any]", body).get("data") if isinstance(body, dict) else None
    if not isinstance(data, dict):
        raise PullError(f"{host} answered without “data”")
    return cast("dict[str, Any]", data)


def _pause(retry_after: str) -> float:
    return min(float(retry_after), _MAX_PAUSE) if retry_after.isdecimal() else 1.0
