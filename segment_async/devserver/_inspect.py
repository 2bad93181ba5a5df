"""The API for tests and scripts: `/_dev/events`, `/_dev/summary`, `/_dev/wait` and `/_dev/chaos`.

Reads and clears the arrivals, and replaces the chaos. It has no state.
"""

from collections.abc import Mapping
from typing import Final

import orjson
from aiohttp import web

from ._arrivals import Arrivals
from ._faults import Chaos, Faults

_MAX_WAIT: Final = 3_600.0


class Inspection:
    def __init__(self, arrivals: Arrivals, faults: Faults) -> None:
        self._arrivals = arrivals
        self._faults = faults

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/_dev/events", self._events),
            web.delete("/_dev/events", self._clear),
            web.get("/_dev/summary", self._summary),
            web.get("/_dev/wait", self._wait),
            web.get("/_dev/chaos", self._chaos),
            web.put("/_dev/chaos", self._set_chaos),
        ]

    async def _events(self, request: web.Request) -> web.Response:
        """`total` is the number of stored events that match; `events` are the last `limit` of them, oldest first."""
        query = request.query
        wanted = {name: query.get(name) for name in ("event", "user", "verdict")}
        matching = list(self._arrivals.select(call=query.get("type"), **wanted))
        limit = int(_number(query, "limit", len(matching)))
        shown = matching[max(0, len(matching) - limit) :]
        return as_json({"total": len(matching), "events": [event.as_dict() for event in shown]})

    async def _clear(self, _: web.Request) -> web.Response:
        self._arrivals.clear()
        return web.Response(status=204)

    async def _summary(self, _: web.Request) -> web.Response:
        return as_json(self._arrivals.summary())

    async def _wait(self, request: web.Request) -> web.Response:
        count = int(_number(request.query, "count", 1))
        timeout = min(_number(request.query, "timeout", 10), _MAX_WAIT)
        reached = await self._arrivals.wait(count, timeout)
        return as_json({"count": self._arrivals.total}, status=200 if reached else 408)

    async def _chaos(self, _: web.Request) -> web.Response:
        return as_json({"chaos": str(self._faults.chaos)})

    async def _set_chaos(self, request: web.Request) -> web.Response:
        """The body is a specification in the format of `--chaos`; an empty one ends the chaos."""
        try:
            self._faults.chaos = Chaos.parse((await request.read()).decode(errors="replace").strip())
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        self._arrivals.wake()
        return await self._chaos(request)


def _number(query: Mapping[str, str], name: str, default: float) -> float:
    text = query.get(name)
    try:
        number = default if text is None else float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e9:  # false for NaN, too
        raise web.HTTPBadRequest(text=f"{name} must be a number of at least 0\n")
    return number


def as_json(value: object, *, status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json")
