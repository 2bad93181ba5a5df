"""The page in a real browser: what it shows, its controls, and what it copies.

Needs Playwright's Python package and a Chromium, found in the usual places or named by `CHROMIUM`.
"""

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from segment_async import Client
from segment_async.devserver import Endpoint, serve
from segment_async.plans import Plan
from tests.devserver.browser import CHROMIUM, Page, opened
from tests.devserver.exchange import send, track
from tests.plans.samples import rule

playwright = pytest.importorskip("playwright.async_api", reason="Playwright is not installed")

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]

# `axe-core` is looked for among the tools of the tests that are marked "peers".
PEERS = Path(os.environ.get("SEGMENT_PEERS") or Path(__file__).parents[2] / ".venv-peers")
AXE = PEERS / "node_modules" / "axe-core" / "axe.min.js"

Case = Callable[[Page, Endpoint, aiohttp.ClientSession], Awaitable[None]]


def in_browser(case: Case, options: dict[str, Any] | None = None, **context: Any) -> None:
    async def main() -> None:
        async with serve(**(options or {})) as endpoint, aiohttp.ClientSession(endpoint.url) as session:
            async with opened(endpoint.url, **context) as page:
                await case(page, endpoint, session)

    asyncio.run(main())


async def sees(page: Page, selector: str, text: str | re.Pattern[str]) -> None:
    await playwright.expect(page.locator(selector).first).to_have_text(text)


async def names(page: Page) -> list[str]:
    """The names of the visible events, newest first."""
    rows = await page.locator(".row:visible").all()
    placed = [(await row.bounding_box(), await row.locator(".name").text_content()) for row in rows]
    return [name for box, name in sorted(placed, key=lambda entry: entry[0]["y"])]


async def shows(page: Page, *expected: str) -> None:
    """Return once exactly these events are visible."""
    await count(page, len(expected))
    assert await names(page) == list(expected)


async def count(page: Page, rows: int) -> None:
    await playwright.expect(page.locator(".row:visible")).to_have_count(rows)


def test_an_event_is_shown_within_a_second_of_the_call() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await sees(page, ".empty h2", "Waiting for the first event")
        async with Client("key", host=endpoint.url) as client:
            await client.track("user-1", "Order Completed", {"total": 30.5})
            await page.locator(".row", has_text="Order Completed").wait_for(timeout=1_000)
        await sees(page, ".row .who", "user-1")
        await sees(page, ".figure.total b", "1")
        assert await page.locator(".empty").is_hidden()

    in_browser(case)


def test_violations_of_a_plan_are_counted_once_there_are_some() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        counter = page.locator(".figure", has_text="against the plan")
        await send(session, track(1, event="Signed Up"))
        await count(page, 1)
        assert await counter.is_hidden()
        await send(session, track(2, event="Signed Upp"))
        await playwright.expect(counter.locator("b")).to_have_text("1")
        await counter.click()
        await shows(page, "Signed Upp")

    pytest.importorskip("jsonschema_rs")
    in_browser(case, {"plan": Plan.load([rule()])})


def test_markup_in_an_event_stays_text() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        evil = "<script>window.evil = 1</script><img src=x onerror='window.evil = 2'>"
        fields = {"event": evil, "userId": evil, "properties": {evil: evil}, "type": "track"}
        await send(session, track(1, **fields), {"type": evil, "messageId": evil}, Cookie=evil)
        await count(page, 2)
        assert evil in await names(page)
        for row in (0, 1):
            await page.locator(".row").nth(row).click()
            for tab in ("Python", "JSON", "Request"):
                await page.get_by_role("tab", name=tab).click()
        await page.locator("#chips button", has_text="Event").click()
        await playwright.expect(page.locator("#choices span")).to_have_text(evil)
        assert await page.evaluate("window.evil") is None
        assert await page.locator("img, main script").count() == 0

    in_browser(case)


def test_objects_in_place_of_text_are_shown_whatever_their_fields() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        evil: dict[str, Any] = {"toString": 1, "valueOf": None, "toJSON": 2}
        message = {"type": "identify", "userId": "u1", "messageId": evil, "timestamp": evil}
        await send(session, message | {"traits": {"firstName": evil, "lastName": [evil], "email": "a@example.com"}})
        await shows(page, "a@example.com")
        await page.locator(".row").first.click()
        await page.get_by_role("tab", name="Request").click()
        await sees(page, ".request tr:has-text('messageId') td", json.dumps(evil, separators=(",", ":")))

    in_browser(case)


def test_invisible_characters_are_escaped_and_copied_unchanged() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        name = "Order\u202e Completed\u200b\x00\nשלום 👩‍🚀"
        await send(session, track(1, event=name))
        await count(page, 1)
        await shows(page, "Order\\u202e Completed\\u200b\\u0000\\nשלום 👩‍🚀")
        await page.locator(".row").click()
        await page.keyboard.press("c")
        await sees(page, "#toast", "Python copied")
        assert (await call_of(await page.evaluate("navigator.clipboard.readText()")))["event"] == name
        await page.keyboard.press("v")
        await page.keyboard.press("c")
        await sees(page, "#toast", "JSON copied")
        assert json.loads(await page.evaluate("navigator.clipboard.readText()"))["event"] == name

    in_browser(case)


@pytest.mark.parametrize("name", ["__proto__", "constructor", "toString"])
def test_names_with_a_meaning_in_javascript(name: str) -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        odd = {name: {name: 1, "isAdmin": True}}
        await send(session, {"type": name, "messageId": name, **odd}, track(1, event=name, userId=name, properties=odd))
        await count(page, 2)
        for row in (0, 1):
            await page.locator(".row").nth(row).click()
            for tab in ("Python", "JSON", "Request"):
                await page.get_by_role("tab", name=tab).click()
        await page.get_by_role("tab", name="JSON").click()
        assert json.loads(await page.locator("#detail .code").inner_text()) in endpoint.messages
        for facet in ("Event", "User", "Rule"):
            await page.locator("#chips button", has_text=facet).click()
            await page.keyboard.press("Escape")
        assert await page.evaluate("({}).isAdmin") is None

    in_browser(case)


def test_a_paused_list_does_not_change_and_counts_new_events() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, track(1, event="First Seen"))
        await count(page, 1)
        await page.keyboard.press("Space")
        await sees(page, "#live span", "Paused")
        await send(session, track(2, event="Second Seen"), track(3, event="Third Seen"))
        await sees(page, "#live span", "2 waiting")
        await sees(page, ".figure.total b", "3")
        await shows(page, "First Seen")
        await page.get_by_text("Show 2 new").click()
        await count(page, 3)
        await shows(page, "Third Seen", "Second Seen", "First Seen")
        await sees(page, "#live span", "Live")

    in_browser(case)


def test_search_and_filters_narrow_the_list() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(
            session,
            track(1, event="Order Completed", properties={"note": "Überraschung"}),
            track(2, event="Order Refunded", userId="u2"),
            track(3, event="order_lost", userId="u2"),
            {"type": "identify", "userId": "u3", "messageId": "m4", "traits": {"plan": "pro"}},
            {"type": "page", "name": "Home", "messageId": "m5"},
        )
        await count(page, 5)
        await page.keyboard.press("/")
        await page.keyboard.type("überr u1")
        await count(page, 1)
        await shows(page, "Order Completed")
        await page.keyboard.press("Escape")
        await page.keyboard.press("Escape")
        await count(page, 5)
        await page.locator(".chip", has_text="identify").click()
        await page.locator(".chip", has_text="page").click()
        await count(page, 2)
        await sees(page, "#count", "2 of 5")
        await page.locator("#count").click()
        await page.locator(".figure", has_text="would be dropped").click()
        await shows(page, "Home")
        await page.keyboard.press("Escape")
        await page.locator("#chips button", has_text="User").click()
        await page.keyboard.type("u2")
        await page.keyboard.press("Enter")
        await shows(page, "order_lost", "Order Refunded")
        await page.locator("#chips button", has_text="Event").click()
        await page.locator("#choices button", has_text="Order Refunded").click()
        await shows(page, "Order Refunded")
        await page.locator("#search").fill("nowhere")
        await sees(page, ".empty h2", "No matching events")

    in_browser(case)


def test_an_event_is_shown_and_copied_as_a_call_and_as_json() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        properties = (
            '{"total":12345678901234567890.5,"big":9007199254740993,"paid":true,"coupon":null,"text":"a\\n\\"b\\""}'
        )
        whole = f'{{"type":"track","event":"Order Completed","userId":"u1","messageId":"m1","properties":{properties}}}'
        async with session.post("/v1/batch", data=f'{{"batch":[{whole}],"writeKey":"key"}}'):
            pass
        await page.keyboard.press("ArrowDown")
        await page.locator(".row").click()
        await page.keyboard.press("c")
        await sees(page, "#toast", "Python copied")
        copied = await page.evaluate("navigator.clipboard.readText()")
        assert '"paid": True' in copied
        assert '"big": 9007199254740993' in copied
        sent = await call_of(copied)
        assert sent["properties"] == endpoint.messages[0]["properties"]
        assert (sent["userId"], sent["event"]) == ("u1", "Order Completed")
        await page.keyboard.press("v")
        await page.keyboard.press("c")
        await sees(page, "#toast", "JSON copied")
        assert json.loads(await page.evaluate("navigator.clipboard.readText()")) == endpoint.messages[0]

    in_browser(case)


async def call_of(code: str) -> dict[str, Any]:
    """The message that the copied `await client.track(...)` sends."""
    async with serve() as endpoint:
        async with Client("key", host=endpoint.url) as client:
            names: dict[str, Any] = {"client": client}
            exec("async def run():\n" + "\n".join(f"    {line}" for line in code.splitlines()), names)
            await names["run"]()
        return endpoint.messages[0]


def test_a_verdict_is_shown_with_its_rule_its_path_and_the_place_in_the_message() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, track(1, properties={"revenue": "30.50"}))
        await sees(page, ".row .mark", "field-type")
        await page.locator(".row").click()
        await sees(page, ".verdicts .rule", "against the spec · field-type")
        await sees(page, ".verdicts .path", "properties.revenue")
        assert await page.locator(".code .found").all_text_contents() == ['"revenue"', '"30.50"']
        await page.locator(".verdicts .rule").click()
        await send(session, track(2))
        await sees(page, "#count", "1 of 2")

    in_browser(case)


def test_the_request_shows_batch_headers_and_attempt_without_the_key() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, track(1), track(2), **{"X-Retry-Count": "2", "X-Note": "<b>"})
        await page.locator(".row").first.click()
        await page.get_by_role("tab", name="Request").click()
        told = await page.locator(".request").inner_text()
        for fact in ("#1, POST /v1/batch", "Attempt\t3", "Messages\t2", "X-Note\t<b>", "Authorization\tBasic …"):
            assert fact in told
        assert "a2V5Og" not in await page.content()

    in_browser(case)


def test_the_switches_inject_faults_and_refused_requests_are_shown() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await page.locator("#chaos-button").click()
        await page.get_by_label("500 Server Error: how much").fill("100")
        await page.keyboard.press("Enter")
        await sees(page, "#chaos-spec", '--chaos "500:100%"')
        assert await send(session, track(1)) == 500
        await sees(page, ".row .name", "injected by --chaos")
        await page.locator("#chaos-500").uncheck()
        await sees(page, "#chaos-spec", "No faults.")
        assert await send(session, track(1)) == 200
        await page.keyboard.press("Escape")
        await sees(page, ".figure:has-text('requests refused') b", "1")
        await page.locator(".row", has_text="injected by --chaos").click()
        await sees(page, ".request td", "500 – injected by --chaos")
        await page.locator(".row", has_text="Order Completed").click()
        await sees(page, "#detail [aria-selected=true]", "Python")

    in_browser(case)


def test_chaos_from_the_command_line_has_its_switch() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await page.keyboard.press("x")
        assert await page.locator("#chaos-503").is_checked()
        assert await page.get_by_label("Slow responses: how much").input_value() == "0.25"

    in_browser(case, {"chaos": "503:7%,slow:250ms"})


def test_everything_works_with_the_keyboard() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, *(track(number, event=f"Step {number} Taken") for number in range(100)))
        await page.locator(".row").first.wait_for()
        await page.keyboard.press("j")
        await sees(page, "#detail h2", "Step 99 Taken")
        await page.keyboard.press("j")
        await sees(page, "#detail h2", "Step 98 Taken")
        await page.keyboard.press("End")
        await sees(page, "#detail h2", "Step 0 Taken")
        await page.keyboard.press("k")
        await sees(page, "#detail h2", "Step 1 Taken")
        await page.keyboard.press("Escape")
        assert await page.locator("#detail").is_hidden()
        await page.keyboard.press("2")
        await sees(page, ".empty h2", "No matching events")
        before = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        await page.keyboard.press("t")
        assert await page.evaluate("getComputedStyle(document.body).backgroundColor") != before
        await page.keyboard.press("?")
        assert await page.locator("#help").is_visible()
        await page.keyboard.press("Escape")
        await page.keyboard.press("Shift+Backspace")
        await sees(page, "#sure h2", "Delete all 100 events?")
        await page.keyboard.press("Escape")
        assert len(endpoint.events) == 100
        await page.keyboard.press("Shift+Backspace")
        await page.keyboard.press("Enter")
        await sees(page, ".empty h2", "Waiting for the first event")
        assert endpoint.events == []

    in_browser(case)


def test_the_list_does_not_move_while_events_arrive() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, *(track(number, event=f"Step {number} Taken") for number in range(200)))
        await page.locator(".row").first.wait_for()
        await page.evaluate("document.getElementById('list').scrollTop = 3000")
        row = page.locator(".row", has_text="Step 110 Taken")
        await row.wait_for()
        before = await row.bounding_box()
        await send(session, *(track(number, event=f"Step {number} Taken") for number in range(200, 300)))
        await sees(page, "#count", "300 stored")
        assert await row.bounding_box() == before

    in_browser(case)


def test_only_visible_rows_exist_and_the_ring_is_the_limit() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        for start in range(0, 12_000, 2_000):
            await send(session, *(track(number) for number in range(start, start + 2_000)))
        await sees(page, ".figure.total b", "12,000")
        assert await page.locator(".row").count() < 60
        assert await page.evaluate("state.items.length") <= 5_200

    in_browser(case)


def test_the_timeline_shows_each_second_and_filters_by_time() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, track(1), track(2, userId=None))
        await count(page, 2)
        box = await page.locator("#canvas").bounding_box()
        right, middle = box["x"] + box["width"], box["y"] + box["height"] / 2

        async def drag(start: float, end: float) -> None:
            await page.mouse.move(start, middle)
            await page.mouse.down()
            await page.mouse.move(end, middle)
            await page.mouse.up()

        await drag(right - 2, right - 420)  # from the current second, which has the events
        await count(page, 2)
        await page.get_by_text("By verdict").click()
        told = set()
        for x in range(int(right) - 16, int(right) - 420, -4):
            await page.mouse.move(x, middle)
            told.update(await page.locator("#tip div").all_text_contents())
        assert told == {"nothing", "would be dropped1", "clean1"}
        await drag(box["x"] + 20, box["x"] + 60)
        await sees(page, ".empty h2", "No matching events")

    in_browser(case)


def test_a_page_reconnects_to_a_restarted_endpoint() -> None:
    async def main() -> None:
        async with aiohttp.ClientSession() as session, AsyncExitStack() as stack:
            async with serve() as endpoint:
                page = await stack.enter_async_context(opened(endpoint.url, faultless=False))
                async with session.post(f"{endpoint.url}/v1/t", json=track(1, event="First Seen")):
                    await sees(page, ".row .name", "First Seen")
            await sees(page, "#live span", "No connection")
            async with serve(port=int(endpoint.url.rpartition(":")[2])):
                async with session.post(f"{endpoint.url}/v1/t", json=track(2, event="Second Seen")):
                    await sees(page, "#live span", "Live")
                await count(page, 1)
                await shows(page, "Second Seen")

    asyncio.run(main())


def test_with_a_token_the_page_opens_by_its_link_and_explains_the_write_key() -> None:
    async def main() -> None:
        async with serve("0.0.0.0", token="sesame") as endpoint, opened(f"{endpoint.url}/?token=sesame") as page:
            await sees(page, ".empty p", re.compile("The write key is the token"))
            await sees(page, ".start .code", re.compile(r'Client\("TOKEN", host=".*", allow_http=True\)'))
            assert page.url == f"{endpoint.url}/"
            async with Client("sesame", host=endpoint.url) as client:
                await client.track("user-1", "Order Completed")
                await sees(page, ".row .name", "Order Completed")
            assert "sesame" not in await page.content()

    asyncio.run(main())


@pytest.mark.parametrize("width", [1100, 1000, 800, 700, 360])
def test_nothing_is_wider_than_the_window(width: int) -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, track(1, event="Order " * 80 + "Completed", properties={"revenue": "30.50", "x" * 900: 1}))
        await page.locator(".row").click()
        for tab in ("Python", "JSON", "Request"):
            await page.get_by_role("tab", name=tab).click()
            assert await page.evaluate("document.body.scrollWidth") == width
        for part in (".board", ".filters", "main", "#detail", ".row", ".row .marks"):
            if await page.locator(part).is_visible():
                box = await page.locator(part).bounding_box()
                assert 0 <= box["x"]
                assert box["x"] + box["width"] <= width

    in_browser(case, viewport={"width": width, "height": 700})


def test_a_phone_shows_the_list_and_then_the_event() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, track(1), track(2, event="order_lost", properties={"total": 30.5}))
        await count(page, 2)
        assert await page.evaluate("document.body.scrollWidth") == 390
        row, name, mark = [
            await page.locator(".row", has_text="order_lost").locator(part).bounding_box()
            for part in (":scope", ".name", ".mark")
        ]
        assert row["x"] < name["x"] < row["x"] + 20
        assert name["x"] + name["width"] < mark["x"] < mark["x"] + mark["width"] < row["x"] + row["width"]
        await page.locator(".row", has_text="order_lost").tap()
        box = await page.locator("#detail").bounding_box()
        assert (box["x"], box["y"], box["width"], box["height"]) == (0, 0, 390, 844)
        await page.get_by_label("Close").tap()
        assert await page.locator("#detail").is_hidden()

    in_browser(case, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)


# --- with a keyboard, a screen reader, a small screen


async def violations(page: Page) -> list[str]:
    """What axe finds, with the elements."""
    await page.evaluate(AXE.read_text("utf-8"))
    found = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{violation['id']}: {[node['html'][:150] + str(node['failureSummary'])[:200] for node in violation['nodes'][:3]]}"
        for violation in found["violations"]
    ]


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not in .venv-peers")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(scheme: str, width: int) -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        assert await violations(page) == []
        await send(
            session,
            *(track(number, type=call, name="Home") for number, call in enumerate(CALLS)),
            track(9, userId=None, properties={"revenue": "30.50", "password": [1, True, None, "x"]}),
            {"type": "odd"},
        )
        assert await send(session, track(1, padding="x" * 40_000)) == 400
        await count(page, 9)
        await page.evaluate("document.getAnimations().forEach((animation) => animation.finish())")
        assert await violations(page) == []
        await page.locator(".row", has_text="id-missing").first.click()
        for tab in ("Python", "JSON", "Request"):
            await page.get_by_role("tab", name=tab).click()
            assert await violations(page) == []
        await page.get_by_label("Close").click()
        for key in ("x", "?", "Shift+Backspace"):
            await page.keyboard.press(key)
            assert await violations(page) == []
            await page.keyboard.press("Escape")
        await page.locator("#chips button", has_text="Event").click()
        assert await violations(page) == []
        await page.keyboard.press("Enter")
        assert await violations(page) == []
        await page.locator("#live").click()
        await send(session, track(20))
        await page.locator("#banner").wait_for()
        assert await violations(page) == []

    options = {"viewport": {"width": width, "height": 860}, "color_scheme": scheme, "bypass_csp": True}
    in_browser(case, None, reduced_motion="reduce", **options)


CALLS = ("track", "identify", "page", "screen", "group", "alias")


def test_escape_closes_the_chaos_panel() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        panel = page.locator("#chaos")
        for focus in ("input", "#chaos-button"):
            await page.locator("#chaos-button").click()
            await panel.wait_for()
            await page.locator(focus if focus.startswith("#") else f"#chaos {focus}").first.focus()
            await page.keyboard.press("Escape")
            assert await panel.is_hidden()
        await page.keyboard.press("x")
        await panel.wait_for()
        await page.keyboard.press("Escape")
        assert await panel.is_hidden()

    in_browser(case)


def test_the_page_has_a_heading_and_tab_lists_hold_tabs_only() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        assert await page.locator("h1").all_inner_texts() == ["segment_async dev"]
        assert await page.locator("[role=tablist] > :not([role=tab])").count() == 0
        await page.get_by_role("tab", name="Browser").click()
        await sees(page, ".start .code", re.compile(f'cdnURL: "{endpoint.url}"'))
        await send(session, track(1))
        await page.locator(".row").click()
        assert await page.locator("[role=tablist] > :not([role=tab])").count() == 0

    in_browser(case)


@pytest.mark.parametrize("width", [1280, 1000, 700])
def test_filters_do_not_move_the_list(width: int) -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        name = "An Event With Quite A Long Name Completed"
        await send(session, *(track(number, type=call, event=name) for number, call in enumerate(CALLS * 40)))
        await page.locator(".row").first.wait_for()
        before = await page.locator("#list").bounding_box()
        await page.locator(".chip", has_text="track").click()
        assert await page.locator("#list").bounding_box() == before
        await page.locator("#chips button", has_text="Event").click()
        await page.locator("#choices div button").first.click()
        await page.locator("#chips button", has_text="User").click()
        await page.locator("#choices div button").first.click()
        await sees(page, "#count", "40 of 240")
        assert await page.locator("#list").bounding_box() == before
        assert await page.evaluate("document.body.scrollWidth") == width

    in_browser(case, viewport={"width": width, "height": 800})


def test_the_focus_ring_lies_above_the_rows() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, *(track(number) for number in range(50)))
        await page.locator(".row").first.wait_for()
        await page.keyboard.press("Escape")  # with nothing to close, it puts the focus on the list
        ring = "(([pane]) => getComputedStyle(pane, '::after'))([document.querySelector('#list').parentElement])"
        assert await page.evaluate(f"{ring}.borderTopWidth") == "2px"
        assert await page.evaluate(f"{ring}.zIndex") == "1"
        assert await page.evaluate("getComputedStyle(document.querySelector('.row')).zIndex") == "auto"

    in_browser(case)


@pytest.mark.parametrize("width", [1280, 390])
def test_json_wraps(width: int) -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, track(1, properties={"note": "word " * 200, "token": "x" * 2_000}))
        await page.locator(".row").click()
        for tab in ("Python", "JSON"):
            await page.get_by_role("tab", name=tab).click()
            wide, seen = await page.evaluate(
                "((e) => [e.scrollWidth, e.clientWidth])(document.querySelector('#detail .code'))"
            )
            assert wide == seen

    in_browser(case, viewport={"width": width, "height": 800})


def test_on_a_phone_the_copy_button_lies_beside_the_tabs() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        async def check(part: str) -> None:
            tabs = await page.locator(f"{part} [role=tablist]").bounding_box()
            button = await page.locator(f"{part} .tabs > .button").bounding_box()
            assert tabs["x"] + tabs["width"] <= button["x"]
            assert button["x"] + button["width"] <= 390

        await check(".start")
        await page.get_by_role("tab", name="curl").tap()
        await sees(page, ".start [aria-selected=true]", "curl")
        await send(session, track(1))
        await page.locator(".row").tap()
        await check("#detail")

    in_browser(case, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)


def test_down_and_timeout_have_their_switches() -> None:
    async def case(page: Page, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await page.keyboard.press("x")
        for name in ("400", "401", "timeout"):
            await page.locator(f"#chaos-{name}").check()
        await sees(page, "#chaos-spec", '--chaos "400:5%,401:5%,timeout:1%"')
        await page.locator("#chaos-down").check()
        await sees(page, "#chaos-spec", '--chaos "400:5%,401:5%,timeout:1%,down"')
        with pytest.raises(aiohttp.ClientConnectionError):
            await send(session, track(1))
        await sees(page, ".row .type", "down")
        await page.locator("#chaos-down").uncheck()
        await sees(page, "#chaos-spec", '--chaos "400:5%,401:5%,timeout:1%"')

    in_browser(case)
