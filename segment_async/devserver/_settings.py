"""`/v1/projects/{key}/settings`: what SDKs for browsers and phones load from Segment's CDN before they send anything.

The response names this endpoint as the place for events, and no destination. A page therefore needs only
`AnalyticsBrowser.load({ writeKey: "any-key", cdnURL: "http://127.0.0.1:8765" })`.
"""

import orjson
from aiohttp import web

from ._faults import Faults
from ._tracking import reset


def route(faults: Faults) -> web.RouteDef:
    async def settings(request: web.Request) -> web.Response:
        if faults.chaos.down:
            return reset(request)
        content = settings_of(request.match_info["key"], request.scheme, request.host)
        return web.Response(
            body=orjson.dumps(content), content_type="application/json", headers={"Cache-Control": "no-store"}
        )

    return web.get("/v1/projects/{key}/settings", settings)


def settings_of(write_key: str, scheme: str, host: str) -> dict[str, object]:
    """The settings of a source without destinations."""
    segment: dict[str, object] = {
        "apiKey": write_key,
        "apiHost": f"{host}/v1",
        "protocol": scheme,
        "unbundledIntegrations": [],
        "addBundledMetadata": True,
        "maybeBundledConfigIds": {},
        "versionSettings": {"version": "4.4.7", "componentTypes": ["browser"]},
    }
    every_call: dict[str, object] = {"__default": {"enabled": True, "integrations": {}}}
    return {
        "integrations": {"Segment.io": segment},
        "plan": {"track": every_call, "identify": every_call, "group": every_call},
        "edgeFunction": {},
        "middlewareSettings": {},
        "enabledMiddleware": {},
        "legacyVideoPluginsEnabled": False,
        "remotePlugins": [],
        # A browser would send its own metrics to Segment.
        "metrics": {"sampleRate": 0},
    }
