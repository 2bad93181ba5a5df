"""Destinations: names that are nearly right, and what some of them need."""

from functools import lru_cache
from typing import Final, cast

from ._field_types import CHOICE, OBJECT, check_type
from ._verdict import Found, JSONObject, Verdict, at


def check_integrations(found: Found, integrations: object) -> None:
    check_type(found, integrations, OBJECT, "integrations")
    if not isinstance(integrations, dict):
        return
    for name, choice in cast("JSONObject", integrations).items():
        check_type(found, choice, CHOICE, at("integrations", name))
        near = _near_destination(name)
        if near is not None:
            text = f"Segment does not know this destination and ignores it; {near} differs by its case or one letter."
            found.append(Verdict("spec", "destination-name", at("integrations", name), text))


# Some of the names that Segment compares exactly. A name that is not here, and not near one, may be right.
_DESTINATIONS: Final = frozenset(
    {"All", "Segment.io"}
    | {"ActiveCampaign", "Actions Amplitude", "Adobe Analytics", "Airship", "Amazon Kinesis", "Amplitude", "AppsFlyer"}
    | {
        "AutopilotHQ",
        "Braze",
        "Bugsnag",
        "ChartMogul",
        "Clearbit",
        "CleverTap",
        "Customer.io",
        "Drip",
        "Facebook Pixel",
    }
    | {"FullStory", "Gainsight", "Google Ads", "Google Analytics", "Google Tag Manager", "Heap", "Help Scout", "Hotjar"}
    | {
        "HubSpot",
        "Intercom",
        "Iterable",
        "Keen",
        "KISSmetrics",
        "Klaviyo",
        "Kustomer",
        "Localytics",
        "MailChimp",
        "Mailchimp",
    }
    | {"Marketo V2", "Mixpanel", "MoEngage", "Optimizely", "Pendo", "Salesforce", "Slack", "Totango", "UserVoice"}
    | {"Vero", "Webhooks", "Woopra", "Zendesk"}
)


@lru_cache(maxsize=1_024)
def _near_destination(name: str) -> str | None:
    """The known name that was probably meant; `None` if this one is known, or near none."""
    if name in _DESTINATIONS or len(name) > 40:
        return None
    lowered = name.lower()
    return next((known for known in sorted(_DESTINATIONS) if _differs_little(lowered, known.lower())), None)


def _differs_little(one: str, other: str) -> bool:
    """Whether at most one letter is missing, added, or another one, in names of four letters or more."""
    if one == other:
        return True
    if min(len(one), len(other)) < 4 or abs(len(one) - len(other)) > 1:
        return False
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    start = next((i for i, (a, b) in enumerate(zip(longer, shorter, strict=False)) if a != b), len(shorter))
    return longer[start + 1 :] == shorter[start + (len(longer) == len(shorter)) :]


# https://segment.com/docs/connections/destinations/catalog/customer-io/
_CUSTOMER_IO: Final = "Customer.io"
_CUSTOMER_IO_TRAITS: Final = 30


def check_customer_io(found: Found, message: JSONObject) -> None:
    """What Customer.io needs of an identify call that names it."""
    integrations, traits = message.get("integrations"), message.get("traits")
    if message.get("type") != "identify" or not isinstance(integrations, dict):
        return
    if not cast("JSONObject", integrations).get(_CUSTOMER_IO):
        return
    given = cast("JSONObject", traits) if isinstance(traits, dict) else {}
    if not given.get("email"):
        text = "Customer.io can send email only to users with the trait email."
        found.append(Verdict("spec", "customer-io-email", "traits.email", text))
    if len(given) > _CUSTOMER_IO_TRAITS:
        text = f"{len(given)} traits; Customer.io takes at most {_CUSTOMER_IO_TRAITS} in one call."
        found.append(Verdict("spec", "customer-io-traits", "traits", text))
    for name in ("unsubscribe", "unsubscribed"):
        if name in given and (name == "unsubscribe" or not isinstance(given[name], bool)):
            text = "To unsubscribe a user at Customer.io, send the trait unsubscribed with true or false."
            found.append(Verdict("spec", "customer-io-unsubscribe", f"traits.{name}", text))
