"""The SDKs that are measured, and what each needs: an environment, an adapter, options. A table and nothing else.

analytics-go is missing: it needs a Go toolchain and access to the Go module proxy.
"""

from dataclasses import dataclass, field
from typing import Any

WEB = ("fastapi", "uvicorn", "httptools", "uvloop", "flask", "waitress")
NOT_MEASURED = {"analytics-go": "needs a Go toolchain and the Go module proxy, which were not available"}


@dataclass(frozen=True, eq=False)
class Contestant:
    name: str
    label: str
    environment: str
    adapter: str
    options: dict[str, Any] = field(default_factory=dict)
    share: float = 1.0
    """The fraction of a measurement's messages it sends; slow SDKs would take minutes for all of them."""
    drops: bool = True
    """Whether it drops messages when its queue is full; measurements of throughput then need a larger queue."""
    imports: str = ""
    constructs: str = ""
    """The statements that import it and that create a first client."""


OURS = Contestant(
    "ours-isal",
    "segment_async (isal)",
    "ours-isal",
    "ours",
    drops=False,
    imports="import segment_async",
    constructs="segment_async.Client('benchmark')",
)
OFFICIAL = Contestant(
    "official",
    "segment-analytics-python (gzip)",
    "official",
    "official",
    {"gzip": True},
    share=0.3,
    imports="import segment.analytics as analytics",
    constructs="analytics.Client('benchmark')",
)
NODE_LABEL = "@segment/analytics-node"

CONTESTANTS = [
    Contestant("nothing", "the application alone", "ours-isal", "nothing"),
    Contestant(
        "making", "the application, building a message it does not send", "ours-isal", "nothing", {"makes": True}
    ),
    OURS,
    *(
        Contestant(
            f"ours-middleware-{caller}",
            f"segment_async (isal, middleware, {label})",
            "ours-isal",
            "ours",
            {"middleware": caller},
            drops=False,
        )
        for caller, label in (
            ("none", "no event"),
            ("module", "a module's client"),
            ("state", "request.state"),
            ("dependency", "FastAPI's dependency"),
        )
    ),
    Contestant("ours-blocking", "segment_async.blocking (isal)", "ours-isal", "ours_blocking", drops=False),
    Contestant("ours-zlib", "segment_async (zlib)", "ours-zlib", "ours", drops=False),
    Contestant(
        "ours-process", "segment_async, spool that survives the process", "ours-isal", "ours", {"spool": "process"}
    ),
    Contestant("ours-full", "segment_async, spool that survives the power", "ours-isal", "ours", {"spool": "full"}),
    OFFICIAL,
    Contestant("official-plain", "segment-analytics-python (no gzip)", "official", "official", {"gzip": False}, 0.3),
    Contestant(
        "official-background",
        "segment-analytics-python (BackgroundTasks)",
        "official",
        "official",
        {"gzip": True, "background": True},
    ),
    Contestant(
        "rudder",
        "rudder-sdk-python",
        "rudder",
        "rudder",
        share=0.3,
        imports="import rudderstack.analytics as analytics",
        constructs="analytics.Client('benchmark', host='http://127.0.0.1:9')",
    ),
    Contestant(
        "posthog",
        "posthog (threads)",
        "posthog",
        "posthog_threads",
        share=0.2,
        imports="import posthog",
        constructs="posthog.Posthog('benchmark')",
    ),
    Contestant(
        "posthog-async",
        "posthog (asyncio)",
        "posthog",
        "posthog_async",
        share=0.05,
        imports="from posthog import AsyncPosthog",
        constructs="import asyncio\nasync def main(): AsyncPosthog('benchmark')\nasyncio.run(main())",
    ),
    Contestant("node", f"{NODE_LABEL} (15 a batch)", "node", "node", {"flushAt": 15}, 0.3),
    Contestant("node-100", f"{NODE_LABEL} (100 a batch)", "node", "node", {"flushAt": 100}, 0.3),
    Contestant("floor", "the floor: a bare loop", "ours-isal", "floor", drops=False),
]
BY_NAME = {each.name: each for each in CONTESTANTS}

REQUIREMENTS = {
    "ours-isal": ("-e .[speedups,cli]", *WEB),
    "ours-zlib": ("-e .", *WEB),
    "official": ("segment-analytics-python", *WEB),
    "rudder": ("rudder-sdk-python", *WEB),
    "posthog": ("posthog[async]", *WEB),
    "plots": ("matplotlib",),
}
NODE_PACKAGES = (NODE_LABEL,)
