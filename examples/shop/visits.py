"""The messages of a visit: who sends them, from where, and at what time of the day.

This file gives a message its structure; `stories` decides what visitors do, and in which order. It uses only integers
and `Random`, no clock and no floating-point function, so that a seed gives the same bytes on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from .catalogue import (
    BROWSERS,
    FIRST_NAMES,
    LAST_NAMES,
    LOCALES,
    NETWORKS,
    ORGANISATIONS,
    PHONES,
    SHOP,
    SITE,
    TOWNS,
    Organisation,
)

JSON = dict[str, Any]

MIDNIGHT = datetime(2026, 11, 20, tzinfo=UTC)
DAY = timedelta(days=1)


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Customer:
    user_id: str
    traits: JSON
    newsletter: bool


class Shop:
    """The state across visits: customers, sequence numbers, refundable orders, and all messages so far."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.messages: list[tuple[datetime, JSON]] = []
        self.orders: list[tuple[datetime, str, JSON]] = []
        four_years = 4 * 365 * 86_400
        self.customers = [
            self.open_account(number, MIDNIGHT - timedelta(seconds=rng.randrange(four_years)))
            for number in range(1, 361)
        ]
        self._last_order = 104_200

    def open_account(self, number: int, opened: datetime) -> Customer:
        rng = self.rng
        traits: JSON = {
            "firstName": rng.choice(FIRST_NAMES),
            "lastName": rng.choice(LAST_NAMES),
            "email": f"customer-{number:05d}@mail.example",
            "createdAt": iso(opened),
            "address": {"city": rng.choice(TOWNS), "country": "GB"},
            "club": rng.choice(("none", "none", "cairn", "summit")),
        }
        return Customer(f"cus_{number:05d}", traits, newsletter=rng.random() < 0.8)

    def sign_up(self, moment: datetime) -> Customer:
        newcomer = self.open_account(len(self.customers) + 1, moment)
        self.customers.append(newcomer)
        return newcomer

    def buyer_for(self, organisation: Organisation) -> Customer:
        """One of the three people who shop for this organisation."""
        return self.customers[ORGANISATIONS.index(organisation) * 3 + self.rng.randrange(3)]

    def next_order_id(self) -> str:
        self._last_order += 1
        return f"KP-{self._last_order}"

    def put(self, moment: datetime, message: JSON) -> None:
        """Store a message without its empty fields; drop it if it is after midnight."""
        if moment < MIDNIGHT + DAY:
            self.messages.append((moment, {key: value for key, value in message.items() if value}))


class Visit:
    """One visitor with a clock: each step writes messages and takes some time."""

    def __init__(self, shop: Shop, start: datetime, *, app: bool) -> None:
        rng = shop.rng
        self.shop, self.rng, self.now, self.app = shop, rng, start, app
        self.anonymous_id = f"{rng.getrandbits(128):032x}"
        self.customer: Customer | None = None
        self.organisation: Organisation | None = None
        self.cart: list[JSON] = []
        self.cart_id = f"cart_{self.anonymous_id[:12]}"
        self.referrer = ""
        self.context: JSON = self._phone() if app else {"userAgent": rng.choice(BROWSERS)}
        self.context["ip"] = rng.choice(NETWORKS) + str(rng.randrange(1, 255))
        self.context["locale"] = rng.choices(tuple(LOCALES), tuple(LOCALES.values()))[0]

    def _phone(self) -> JSON:
        phone = self.rng.choice(PHONES)
        width, height, density = phone.screen
        return {
            "app": {"name": SHOP, "version": self.rng.choice(("5.2.0", "5.3.1"))},
            "device": {"manufacturer": phone.manufacturer, "model": phone.model, "type": phone.system.lower()},
            "os": {"name": phone.system, "version": phone.version},
            "network": self.rng.choice(({"wifi": True, "cellular": False}, {"wifi": False, "cellular": True})),
            "screen": {"width": width, "height": height, "density": density},
        }

    def wait(self, least: int, most: int) -> None:
        """Advance the clock by `least` to `most` seconds."""
        self.now += timedelta(milliseconds=self.rng.randrange(least * 1000, most * 1000))

    def send(self, kind: str, **fields: Any) -> None:
        user_id = self.customer.user_id if self.customer else None
        identity = {"userId": user_id, "anonymousId": self.anonymous_id}
        self.shop.put(self.now, {"type": kind, **identity, **fields, "context": dict(self.context)})

    def track(self, event: str, **properties: Any) -> None:
        self.send("track", event=event, properties=properties)
        self.wait(2, 25)

    def look_at(self, name: str, path: str, *, category: str, search: str = "") -> None:
        """Open a screen of the app or a page in the browser; the page is the context of later messages."""
        if self.app:
            self.send("screen", name=name, category=category, properties={"path": path})
        else:
            page = {"path": path, "url": f"{SITE}{path}{search}"}
            extra = {"title": f"{name} | {SHOP}", "search": search, "referrer": self.referrer}
            self.context["page"] = page
            self.send("page", name=name, category=category, properties=page | {k: v for k, v in extra.items() if v})
            self.referrer = page["url"]
        self.wait(3, 45)

    def sign_in(self) -> None:
        """Log a known customer in, with the organisation if there is one."""
        self.look_at("Sign In", "/account/sign-in", category="Account")
        self._identify(self.shop.buyer_for(self.organisation) if self.organisation else self._some_customer())
        self.track("Signed In", method=self.rng.choice(("password", "passkey", "google")))
        if self.organisation:
            self.send("group", groupId=self.organisation.group_id, traits=self.organisation.traits)
            self.wait(1, 4)

    def sign_up(self) -> None:
        """Create an account: the alias links earlier messages to the new user id."""
        self.look_at("Sign Up", "/account/sign-up", category="Account")
        newcomer = self.shop.sign_up(self.now)
        alias = {"type": "alias", "previousId": self.anonymous_id, "userId": newcomer.user_id}
        self.shop.put(self.now, alias | {"context": dict(self.context)})
        self.wait(1, 2)
        self._identify(newcomer)
        self.track("Signed Up", method=self.rng.choice(("password", "google", "apple")))

    def return_signed_in(self) -> None:
        """The browser or the app remembers the customer from the last visit."""
        self.customer = self._some_customer()

    def _some_customer(self) -> Customer:
        return self.rng.choice(self.shop.customers)

    def _identify(self, customer: Customer) -> None:
        self.customer = customer
        integrations = {} if customer.newsletter else {"All": True, "Mailchimp": False}
        self.send("identify", traits=customer.traits, integrations=integrations)
        self.wait(1, 2)
