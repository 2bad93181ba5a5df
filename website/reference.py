"""The pages of the reference that are made from the code. Each function returns the Markdown of one page.

Options, reasons, metrics, commands and conversions are read from where the code has them, so that no page can differ
from it. This file knows no mkdocs.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import click

from segment_async import Client, Response, RetryPolicy, Status, bound
from segment_async._message.build import MAX_MESSAGE_ID
from segment_async._outcome import REASONS
from segment_async._pipeline.batch import MAX_BATCH_MESSAGES, MAX_BODY_BYTES
from segment_async.instrumentation import COUNTERS, GAUGES, SUFFIXES
from segment_async.messages import MAX_MESSAGE_BYTES
from segment_async.spool import SQLiteSpool
from segment_async.verdicts import BATCH_TOO_LONG, DUPLICATE_ID, WRITE_KEY_MISSING, Verdict, judge
from website import public
from website.rules import EXAMPLES, SPEC, TITLES
from website.values import ROWS, shown

# Public names of the package itself that have a page of their own.
ON_OTHER_PAGES: Final = {
    "reference/client.md": ("Client", "bound", "bind"),
    "reference/outcomes.md": ("Delivery", "Outcome", "Status", "Statistics"),
    "reference/errors.md": (
        "SegmentError",
        "MessageError",
        "MessageTooLarge",
        "QueueFull",
        "ClientClosed",
        "SpoolUnavailable",
        "DeliveryError",
        "TransportError",
    ),
    "reference/options.md": ("RetryPolicy", "OAuth", "Transport", "HTTPTransport", "Response"),
}

HOW_TO: Final = {
    "asgi": "web.md",
    "aws_lambda": "how-to/serverless.md",
    "blocking": "blocking.md",
    "celery": "how-to/celery.md",
    "compat": "how-to/migrate.md",
    "destinations": "plans.md",
    "devserver": "how-to/local-segment.md",
    "django": "how-to/django.md",
    "events": "plans.md",
    "fastapi": "web.md",
    "flask": "how-to/flask.md",
    "importing": "import.md",
    "hooks": "how-to/erasure.md",
    "instrumentation": "how-to/metrics.md",
    "otel": "how-to/metrics.md",
    "plans": "plans.md",
    "prometheus": "how-to/metrics.md",
    "relay": "relay.md",
    "specs": "plans.md",
    "spool": "how-to/spool.md",
    "testing": "how-to/testing.md",
    "verdicts": "how-to/local-segment.md",
}


def pages() -> dict[str, str]:
    """Every generated page, by its path below `docs/`."""
    made: dict[str, Callable[[], str]] = {
        "reference/index.md": index,
        "reference/options.md": options,
        "reference/reasons.md": reasons,
        "reference/verdicts.md": verdicts,
        "reference/metrics.md": metrics,
        "reference/cli.md": commands,
        "reference/values.md": values,
        "reference/wire.md": wire,
    }
    return {path: make() for path, make in made.items()} | {
        module_path(name): module_page(name) for name in public.modules()[1:]
    }


def module_path(name: str) -> str:
    return f"reference/modules/{name.partition('.')[2]}.md"


# -- tables


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: object) -> str:
    return f"`{text}`"


def as_markdown(text: str) -> str:
    """A docstring's text: with code in single backticks."""
    return re.sub(r"\s+", " ", text.replace("``", "`")).strip()


def arguments(docstring: str, section: str = "Args") -> dict[str, str]:
    """The texts of a docstring's section, by name; one entry may name several."""
    found = re.search(rf"^{section}:\n(.*?)(?=^\S|\Z)", docstring, re.DOTALL | re.MULTILINE)
    assert found is not None, docstring
    entries = re.split(r"^    (?=\S)", found[1], flags=re.MULTILINE)[1:]
    texts: dict[str, str] = {}
    for entry in entries:
        names, _, text = entry.partition(": ")
        texts |= {name.strip(): as_markdown(text) for name in names.split(",")}
    return texts


# -- the pages


def index() -> str:
    rows = []
    for name in public.modules():
        path = "client.md" if name == "segment_async" else f"modules/{name.partition('.')[2]}.md"
        rows.append((f"[`{name}`]({path})", as_markdown(intro(name).partition("\n\n")[0])))
    return f"""# Reference

Everything here is made from the code of this version: signatures, docstrings, options, reasons, metrics and commands.

{table(("module", "what is in it"), rows)}

The command is [`segment-async`](cli.md), also as `python -m segment_async`.
"""


def intro(name: str) -> str:
    """The first paragraph of a module's docstring."""
    return (inspect.getdoc(public.module(name)) or "").partition("\n\n")[0]


def module_page(name: str) -> str:
    short = name.partition(".")[2]
    lines = [f"# `{name}`", "", as_markdown(intro(name)), ""]
    if short in HOW_TO:
        lines += [f"How to use it: [the guide](../../{HOW_TO[short]}).", ""]
    if short == "specs":
        lines += [specs(), ""]
    if short == "compat":
        lines += ["What differs:", "", differences(), ""]
    lines += [f"::: {name}.{each}\n" for each in public.names(name)]
    return "\n".join(lines)


def specs() -> str:
    from segment_async.specs import SPECS

    rows = []
    for each in [*SPECS, "traits"]:
        made = importlib.import_module(f"segment_async.specs.{each}")
        rows.append((code(made.__name__), ", ".join(code(name) for name in made.__all__)))
    return table(("module", "classes"), rows)


def differences() -> str:
    """The table of the docstring of `segment_async.compat`: two columns in reStructuredText."""
    from segment_async import compat

    _, heads, lines = re.split(r"^=+ +=+$\n?", inspect.getdoc(compat) or "", flags=re.MULTILINE)[:3]
    second = re.search(r"(?<=  )\S", heads)
    assert second is not None
    rows: list[tuple[str, ...]] = []
    for line in lines.splitlines():
        first, text = line[: second.start()].strip(), line[second.start() :]
        if not first:  # the text goes on
            first, before = rows.pop()
            text = f"{before} {text}"
        rows.append((as_markdown(first), as_markdown(text)))
    return table(("official SDK", "here, and why"), rows)


def options() -> str:
    texts = arguments(inspect.getdoc(Client) or "")
    rows = []
    for parameter in inspect.signature(Client).parameters.values():
        if parameter.name == "write_key":
            continue
        default = DEFAULTS.get(
            parameter.name,
            code(json.dumps(parameter.default) if isinstance(parameter.default, str) else repr(parameter.default)),
        )
        rows.append((code(parameter.name), default, texts[parameter.name]))
    spool = arguments(inspect.getdoc(SQLiteSpool) or "")
    of_spool = [
        (
            code(parameter.name),
            code(json.dumps(parameter.default) if isinstance(parameter.default, str) else repr(parameter.default)),
            spool[parameter.name],
        )
        for parameter in inspect.signature(SQLiteSpool).parameters.values()
        if parameter.name in spool
        and parameter.default is not parameter.empty
        and parameter.name not in ("clock", "monotonic")
    ]
    objects = "\n".join(f"::: segment_async.{name}\n" for name in ON_OTHER_PAGES["reference/options.md"])
    return f"""# Options

Options of [`Client`](client.md), which `segment_async.blocking.Client` and `lifespan` take as well. All of them are keyword-only; the write key comes first: `Client("WRITE_KEY", region="eu")`.

{table(("option", "default", "meaning"), rows)}

`ValueError` is raised at construction if an option is out of range, contradicts another one, or would put the write key at risk.

| environment variable | meaning |
| --- | --- |
| `SEGMENT_WRITE_KEY` | the write key, if the client was given none |
| `SEGMENT_HOST` | the host, if the client was given none; wins over `region` |
| `SEGMENT_ALLOW_HTTP` | `1`: allow a plain `http://` host, as `allow_http=True` does |
| `HTTPS_PROXY`, `SSL_CERT_FILE` and others | with `trust_env=True` |

## The spool

Options of `SQLiteSpool`, as in `Client("WRITE_KEY", spool=SQLiteSpool("analytics.db", max_age=86_400))`:

{table(("option", "default", "meaning"), of_spool)}

{objects}
"""


DEFAULTS: Final = {"retry": "`RetryPolicy()`", "max_queue_bytes": "`33_554_432` (32 MiB)", "max_queue_size": "`10_000`"}


def reasons() -> str:
    rows = [(code(word), reason.status.value, reason.text, REMEDIES[word]) for word, reason in REASONS.items()]
    return f"""# Reasons

Why a message was not delivered: `outcome.reason`, the keys of `client.statistics().reasons`, the label `reason` of the metrics, and the column of `segment-async spool dead`. The words do not change between releases.

{table(("reason", "outcome", "meaning", "what to do"), rows)}

A delivered message has the reason `None`. {code("kept")} and {code("handed_over")} are not failures: see [`Status`][segment_async.Status].
"""


assert Status.KEPT.value == "kept"

REMEDIES: Final = {
    "refused": "Read `outcome.status_code`. If it is 400, check the event in the [local Segment](../how-to/local-segment.md).",
    "unauthorized": "Check the write key, or the [OAuth application](../how-to/oauth.md).",
    "redirected": "`outcome.location` names the host that the answer pointed to. Correct `host`.",
    "too_large": "A proxy in front of Segment has a smaller limit; raise it there, or send smaller events.",
    "unexpected_answer": "Check `host` and `proxy`. Open the address in a browser: a login page or a proxy may respond.",
    "gave_up": "See [During an outage](../troubleshooting/outage.md). A [spool](../how-to/spool.md) keeps such events for a retry.",
    "queue_full": "See [Some events are missing](../troubleshooting/missing.md).",
    "no_identity": "Pass `user_id` or `anonymous_id`, or bind one with `bind()`.",
    "before_send": "Look into the log: an exception in the hook is logged once.",
    "disabled": "Remove `send=False`.",
    "close_timeout": "Raise `close_timeout`, or use a [spool](../how-to/spool.md).",
    "exit": "Close the client, or flush it, before the process ends.",
    "invalid": "The log names the field, at most once a minute. `segment-async dev` shows the rule.",
    "spool_unavailable": "Check the disk: space, permissions, and the log.",
    "too_old": "Raise `max_age` of the spool.",
    "purged": "Nothing: `segment-async spool purge` erased it.",
    "damaged": "Check the disk. The damaged file is kept beside the spool as `*.corrupt-…`.",
}


def verdicts() -> str:
    seen: dict[str, tuple[Verdict, str]] = {}
    for message, link in EXAMPLES:
        for verdict in judge(message):
            seen.setdefault(verdict.rule, (verdict, link))
    for verdict in (DUPLICATE_ID, BATCH_TOO_LONG, WRITE_KEY_MISSING):
        seen[verdict.rule] = (verdict, SPEC["http-api"])
    order = ("dropped", "spec", "plan", "style")
    rows = [
        (
            f'<span id="{verdict.rule}">{code(verdict.rule)}</span>',
            verdict.severity,
            verdict.text,
            f"[{TITLES[link]}]({link})",
        )
        for verdict, link in sorted(seen.values(), key=lambda found: (order.index(found[0].severity), found[0].rule))
    ]
    return f"""# Verdicts

What the [local Segment](../how-to/local-segment.md), the [test kit](../how-to/testing.md) and `segment-async import` say about a message. The texts are examples; numbers and types are those of the message.

- **dropped**: Segment answers 200 and drops the message, or refuses its request. The client refuses it at the call.
- **spec**: Segment keeps the message, but it violates the specification, and a destination may ignore the field.
- **plan**: it violates your [tracking plan](../plans.md). The rules are those of the plan.
- **style**: it is valid, but not recommended.

{table(("rule", "severity", "example", "Segment’s page"), rows)}
"""


def metrics() -> str:
    rows = [
        (
            code(name),
            code(f"segment_{name}{SUFFIXES.get(name, '')}"),
            code(f"segment.{name}"),
            "gauge",
            text,
        )
        for name, (_, text) in GAUGES.items()
    ]
    rows += [
        (code(name), code(f"segment_{name}_total"), code(f"segment.{name}"), "counter", text)
        for name, text in COUNTERS.items()
    ]
    rows += [
        (
            "",
            "`segment_messages_total{outcome, reason}`",
            "`segment.messages`",
            "counter",
            "Messages by outcome and [reason](reasons.md).",
        ),
        (
            "",
            "`segment_request_duration_seconds{status}`",
            "`segment.request.duration`",
            "histogram",
            "Duration of requests, by the status of the response; `none` without one.",
        ),
    ]
    return f"""# Metrics

What `segment_async.prometheus.watch(client)` and `segment_async.otel.watch(client)` report, and the field of [`client.statistics()`][segment_async.Statistics] behind it. [Alerts and a dashboard](../how-to/alerts.md) use them.

{table(("statistics()", "Prometheus", "OpenTelemetry", "kind", "meaning"), rows)}

Each has the label `client`: `watch(client, label="shop")`; without it, clients are `1`, `2` and so on. The prefix `segment` of the Prometheus names is `watch(client, name="segment")`.
"""


def commands() -> str:
    from segment_async.cli._commands import segment_async as group

    return "\n".join(
        [
            "# Command line",
            "",
            "`segment-async` needs the extra `cli`. `python -m segment_async` is the same command.",
            "",
            *_command(group, "segment-async", 2),
        ]
    )


def _command(command: click.Command, name: str, level: int, parent: click.Context | None = None) -> Iterator[str]:
    sizes = {"color": False, "terminal_width": 100, "max_content_width": 100}
    context = click.Context(command, parent, name, **{**command.context_settings, **sizes})
    yield f"{'#' * min(level, 4)} {context.command_path}\n"
    yield f"```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for verb in command.list_commands(context):
            found = command.get_command(context, verb)
            assert found is not None
            yield from _command(found, verb, level + 1, context)


def values() -> str:
    rows = [(kind, code(written), code(shown(written)), note) for kind, written, note in ROWS]
    return f"""# Values

What becomes of Python's values in `properties`, `traits` and `context`. A message is encoded once, at the call: what you change in your objects afterwards changes nothing. The right-hand column is what the encoder of this version makes of the expression.

{table(("type", "expression", "JSON", ""), rows)}

Anything else is a `MessageError` that names the path, such as `properties.cart[3].owner`, and the type, and never the value. So are cycles, and values that are nested too deeply. `Client(default=...)` converts your own types.
"""


def wire() -> str:
    headers, body = asyncio.run(_batch())
    shown_headers = "\n".join(f"{name}: {value}" for name, value in headers.items())
    key = base64.b64encode(b"WRITE_KEY:").decode()
    policy = RetryPolicy()
    return f"""# Wire format

One request per batch: `POST https://api.segment.io/v1/batch`, or `https://events.eu1.segmentapis.com/v1/batch` with `region="eu"`, or `/v1/batch` at your `host`. This is a batch that this version made, before compression:

```http
POST /v1/batch HTTP/1.1
{shown_headers}
```

```json
{json.dumps(json.loads(body), indent=2)}
```

- `Authorization` is the write key as a user name without a password (`{key}` is `WRITE_KEY:` in base64), or `Bearer` and a token with [OAuth](../how-to/oauth.md). The write key is in the body as well.
- `X-Retry-Count` is absent in the first request with a batch, then 1, 2, 3, and so on.
- `sentAt` is the time of this attempt. Segment corrects clocks by it: `timestamp = receivedAt - (sentAt - originalTimestamp)`.
- `messageId` stays the same on every attempt. Segment deduplicates by it for at least 24 hours.

| limit, in bytes of uncompressed JSON | value |
| --- | --- |
| one message | {MAX_MESSAGE_BYTES:,} bytes |
| one batch, with its envelope | {MAX_BODY_BYTES:,} bytes |
| messages in a batch | {MAX_BATCH_MESSAGES:,} |
| length of a `messageId` | {MAX_MESSAGE_ID} characters |

## What an answer means

| answer | meaning | what the client does |
| --- | --- | --- |
| 2xx | accepted | delivered. HTML, or JSON with `"success": false`, does not come from Segment: three retries, then `unexpected_answer` |
| 3xx | a proxy, or a wrong host | never followed, because a redirect would carry the write key to another host: `redirected` |
| 400 | something in the batch is refused | splits the batch until the refused message stands alone: `refused`. The others are delivered |
| 401, 403 | credentials | with OAuth: a fresh token, once, and the same batch again. Else `unauthorized` |
| 408, 410, 429, 460 | transient | retries |
| 413 | too large for this server or proxy | halves the batch, and makes smaller ones for a while. One message alone: `too_large` |
| other 4xx, 501, 505, 511 | refused | `refused`; 511 with OAuth as 401 |
| other 5xx, and statuses outside of 200–599 | transient | retries |
| none | refused, reset, timeout, DNS, TLS, or garbage | retries, and marks the messages as possibly delivered |

A `Retry-After` on an answer that is retried pauses all requests of the client, for {policy.max_retry_after} seconds at most, and never for less than the first back-off. Otherwise the back-off doubles from {policy.backoff} to {policy.max_backoff} seconds, with jitter, until `give_up_after` ({policy.give_up_after // 3_600} hours) has passed since the first failure. [`RetryPolicy`][segment_async.RetryPolicy] changes these numbers.
"""


class _Recorder:
    def __init__(self) -> None:
        self.request: tuple[dict[str, str], bytes] = ({}, b"")

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        self.request = (dict(headers), body)
        return Response(200, {}, b'{"success":true}')

    async def aclose(self) -> None:
        """There is nothing to close."""


async def _batch() -> tuple[dict[str, str], bytes]:
    recorder = _Recorder()
    with bound(user_id="user-1"):
        async with Client("WRITE_KEY", transport=recorder, gzip=False) as client:
            at = "2026-11-21T19:20:03.047Z"
            await client.identify(traits={"email": "ada@example.com"}, timestamp=at, message_id="identify-1")
            await client.track(event="Order Completed", properties={"total": 30.5}, timestamp=at, message_id="order-1")
    return recorder.request
