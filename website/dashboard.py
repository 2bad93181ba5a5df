"""`python -m website.dashboard` makes the Grafana dashboard from the names of the metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from segment_async.instrumentation import COUNTERS, GAUGES, SUFFIXES

FILE: Final = Path(__file__).parents[1] / "docs" / "assets" / "grafana.json"
_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
# Grafana's names of the units.
_UNITS: Final = {"{message}": "short", "By": "bytes", "s": "s", "1": "short"}
# They do not change.
_NOT_SHOWN: Final = ("capacity", "capacity_bytes")


def panels() -> list[tuple[str, str, str, str]]:
    """Title, query, legend and unit of each panel, what matters most first."""
    gauges = [
        (text, f"segment_{name}{SUFFIXES.get(name, '')}", "{{instance}} {{client}}", _UNITS[unit])
        for name, (unit, text) in GAUGES.items()
        if name not in (*_NOT_SHOWN, "last_delivery")
    ]
    since = f"time() - segment_last_delivery{SUFFIXES['last_delivery']}"
    gauges.append(("Seconds since the last delivery.", since, "{{instance}} {{client}}", "s"))
    # The oldest message's age is what an alert looks at.
    gauges.sort(key=lambda panel: panel[3] != "s")
    durations = "histogram_quantile({}, sum by (le) (rate(segment_request_duration_seconds_bucket[$__rate_interval])))"
    return [
        gauges[0],
        (
            "Messages by outcome",
            "sum by (outcome) (rate(segment_messages_total[$__rate_interval]))",
            "{{outcome}}",
            "mps",
        ),
        (
            "Failed and dropped, by reason",
            'sum by (outcome, reason) (rate(segment_messages_total{outcome=~"failed|dropped"}[$__rate_interval])) > 0',
            "{{outcome}}: {{reason}}",
            "mps",
        ),
        *gauges[1:],
        *(
            (text, f"sum by (instance) (rate(segment_{name}_total[$__rate_interval]))", "{{instance}}", "cps")
            for name, text in COUNTERS.items()
        ),
        ("Duration of requests, median", durations.format(0.5), "p50", "s"),
        ("Duration of requests, 99th percentile", durations.format(0.99), "p99", "s"),
        (
            "Requests by status",
            "sum by (status) (rate(segment_request_duration_seconds_count[$__rate_interval]))",
            "{{status}}",
            "reqps",
        ),
    ]


def dashboard() -> dict[str, Any]:
    return {
        "title": "segment_async",
        "uid": "segment-async",
        "tags": ["segment"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Source"}]},
        "panels": [_panel(number, *panel) for number, panel in enumerate(panels())],
    }


def _panel(number: int, title: str, query: str, legend: str, unit: str) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title.rstrip("."),
        "datasource": _SOURCE,
        "gridPos": {"x": number % 3 * 8, "y": number // 3 * 8, "w": 8, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [{"refId": "A", "datasource": _SOURCE, "expr": query, "legendFormat": legend}],
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
