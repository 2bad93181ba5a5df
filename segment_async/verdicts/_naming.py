"""Names of events and keys: how they should read, and those that suggest secrets or personal data."""

import re
from functools import lru_cache
from typing import Final, TypeGuard

from ._field_types import TEXT, check_type
from ._verdict import PATH_CHARACTERS, Found, JSONObject, Verdict, at

# --- event names: https://segment.com/academy/collecting-data/naming-conventions-for-clean-data/


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VARIABLE_PART: Final = re.compile(r"\d{4,}|@|[0-9a-f]{8}-[0-9a-f]{4}-", re.IGNORECASE)
_SMALL_WORDS: Final = _words("a an and at by for from in of off on or out the to up via with")
_IRREGULAR: Final = _words(
    "Begun Bought Broken Brought Built Caught Chosen Cut Done Drawn Driven Eaten Fallen Felt Fought Found Frozen Given "
    "Gone Got Grown Heard Held Hidden Hit Kept Known Led Left Lent Let Lost Made Met Paid Put Quit Read Reset Ridden "
    "Run Seen Sent Set Shown Shut Sold Spent Split Spoken Spread Stolen Sung Taken Taught Thrown Told Undone Understood "
    "Unsent Upset Woken Won Worn Written"
)


def check_event_name(found: Found, event: object) -> None:
    check_type(found, event, TEXT, "event")
    if isinstance(event, str) and event:
        found.extend(_event_style(event))


@lru_cache(maxsize=1_024)
def _event_style(event: str) -> tuple[Verdict, ...]:
    if _VARIABLE_PART.search(event):
        text = "An id or a date in the name creates a new event each time."
        return (Verdict("style", "event-dynamic", "event", text),)
    if not _is_object_action(event.split(" ")):
        text = "Should be Object Action, such as “Order Completed” or “Signed Up”."
        return (Verdict("style", "event-name", "event", text),)
    return ()


def _is_object_action(words: list[str]) -> bool:
    """Whether there are two words or more, capitalised, one of them a verb in the past tense."""
    capitalised = all(word and (not word[0].islower() or word in _SMALL_WORDS) for word in words)
    past = any(word.endswith("ed") or word in _IRREGULAR for word in words)
    return len(words) > 1 and capitalised and past


# --- keys that look like secrets or personal data


_SECRET: Final = _words(
    "accesskey apikey authorization cookie creditcard cardnumber cvc cvv passphrase passwd password privatekey pwd "
    "secret secretkey ssn token"
)
_PERSONAL: Final = _words(
    "birthday birthdate dateofbirth dob email emailaddress firstname fullname iban ipaddress lastname passport phone "
    "phonenumber socialsecurity streetaddress surname"
)
_SPECIFIED: Final = "context.device.token"  # defined by the spec
_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_KEY_TEXTS: Final = {
    "key-secret": "The name suggests a secret, which every destination would receive.",
    "key-personal": "Personal data belongs in traits, where Segment can find and delete it.",
}


@lru_cache(maxsize=1_024)
def _key_rule(key: str) -> str | None:
    """The rule that applies to a key, decided by its last one, two or three words: `token_count` is no secret."""
    words = [word.lower() for word in _WORD.findall(key)]
    endings = {"".join(words[-length:]) for length in (1, 2, 3)}
    if endings & _SECRET:
        return "key-secret"
    return "key-personal" if endings & _PERSONAL else None


def check_keys(found: Found, container: JSONObject, path: str) -> None:
    # A stack instead of recursion, because the sender decides how deep a message is nested.
    waiting: list[tuple[str, JSONObject | list[object]]] = [(path, container)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(
                (f"{path[:PATH_CHARACTERS]}[{i}]", entry) for i, entry in enumerate(value) if _is_nested(entry)
            )
            continue
        for key, entry in value.items():
            rule = _key_rule(key)
            if rule is not None:
                _key(found, rule, at(path, key))
            if _is_nested(entry):
                waiting.append((at(path, key), entry))


def _is_nested(value: object) -> TypeGuard[JSONObject | list[object]]:
    return isinstance(value, (dict, list))


def _key(found: Found, rule: str, path: str) -> None:
    in_traits = path.startswith(("traits.", "context.traits."))
    if path != _SPECIFIED and not (rule == "key-personal" and in_traits):
        found.append(Verdict("style", rule, path, _KEY_TEXTS[rule]))
