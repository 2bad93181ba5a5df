"""The pytest plugin: the fixtures `segment` and `segment_endpoint`, and the check of the messages after each test.

pytest loads it wherever the package is installed. It therefore imports nothing else of the package until a fixture is
used, and its hooks cost other tests next to nothing. The fixtures are implemented in `testing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from .plans import Plan
    from .testing import Recording, RunningEndpoint

_NAME: Final = "segment_verdicts"
_CHOICES: Final = ("error", "warn", "ignore")
_HINT: Final = f'To allow this, use @pytest.mark.{_NAME}("ignore"), or set {_NAME} in the ini file.'

_PLAN: Final = "segment_plan"

_plan: Final = pytest.StashKey["Plan | None"]()
_recording: Final = pytest.StashKey["Recording"]()
# How many messages had been checked when the test passed.
_checked_messages: Final = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        _NAME,
        "what to do about messages that Segment would drop or that violate its spec: error, warn or ignore",
        default="error",
    )
    parser.addini(_PLAN, "a tracking plan, as a JSON file: messages that violate it count as well", type="paths")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{_NAME}(choice): overrides {_NAME} of the ini file for this test")
    _valid(config.getini(_NAME))


@pytest.fixture
def segment(request: pytest.FixtureRequest) -> Iterator[Recording]:
    """A client with the real pipeline but no socket (`.client`), its messages (`.events`), and assertions on them.

    At its end, the test fails if Segment would drop a message or if a message violates the spec.
    """
    from .testing import Recording, close_in_thread

    stash = request.node.stash
    # Not `with recording()`: an async test may ask for this fixture while its loop runs; the end is outside of it.
    recorded = stash[_recording] = Recording(_plan_of(request.config))
    yield recorded
    close_in_thread(recorded)
    del stash[_recording]
    # If the test passed, check the messages that other fixtures sent during their teardown.
    if _checked_messages in stash:
        _check(request.node, recorded, start=stash[_checked_messages])


@pytest.fixture
def segment_endpoint() -> Iterator[RunningEndpoint]:
    """The local endpoint on a free port: `.url`, `.events` (each with `message` and `verdicts`), `.clear()`."""
    from .testing import running_endpoint

    with running_endpoint() as endpoint:
        yield endpoint


# Last, and therefore only after a test that passed: later hooks are not called once one has raised.
@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    recorded = item.stash.get(_recording, None)
    if recorded is not None:
        count = len(recorded.events)
        _check(item, recorded)
        item.stash[_checked_messages] = count


def _check(item: pytest.Item, recorded: Recording, start: int = 0) -> None:
    choice = _choice(item)
    objections = "" if choice == "ignore" else recorded.objections(start)
    if not objections:
        return
    text = f"Segment would drop or misread these messages:\n{objections}\n{_HINT}"
    if choice == "warn":
        item.warn(pytest.PytestWarning(text))
    else:
        pytest.fail(text, pytrace=False)


def _plan_of(config: pytest.Config) -> Plan | None:
    """The plan of the ini file, read once; the path is relative to that file."""
    if _plan not in config.stash:
        from .plans import Plan, PlanError, require_validator

        paths = config.getini(_PLAN)
        try:
            if paths:
                require_validator()
            config.stash[_plan] = Plan.load(paths[0]) if paths else None
        except (OSError, PlanError) as error:
            raise pytest.UsageError(f"{_PLAN}: {error}") from None
    return config.stash[_plan]


def _choice(item: pytest.Item) -> str:
    marker = item.get_closest_marker(_NAME)
    if marker is None:
        return _valid(item.config.getini(_NAME))
    return _valid(marker.args[0] if marker.args else marker.kwargs.get("choice"))


def _valid(choice: Any) -> str:
    # Quotes are part of the value in an ini file, but not in pyproject.toml.
    word = choice.strip("\"' ") if isinstance(choice, str) else choice
    if word not in _CHOICES:
        raise pytest.UsageError(f"{_NAME} must be one of {', '.join(_CHOICES)}, not {choice!r}")
    return str(word)
