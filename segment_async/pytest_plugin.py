"""The pytest plugin: the fixtures `segment` and `segment_endpoint`, and the judgement at the end of a test.

It is loaded in every run of everybody who has the package installed. So it imports nothing of ours until a fixture is
used, and its hooks do next to nothing for other tests. What the fixtures give is `testing`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from .testing import Recording, RunningEndpoint

_NAME: Final = "segment_verdicts"
_CHOICES: Final = ("error", "warn", "ignore")
_HINT: Final = f'If that is meant: @pytest.mark.{_NAME}("ignore"), or {_NAME} in the ini file.'

_recording: Final = pytest.StashKey["Recording"]()
# How many messages were judged when the test had passed.
_judged: Final = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        _NAME, "messages that Segment would drop, or that are against its spec: error, warn or ignore", default="error"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{_NAME}(choice): for this test in place of the ini file's {_NAME}")
    _checked(config.getini(_NAME))


@pytest.fixture
def segment(request: pytest.FixtureRequest) -> Iterator[Recording]:
    """A client with the real pipeline and no socket (`.client`), its messages (`.events`), and assertions on them.

    Messages that Segment would drop, or that are against its spec, fail the test at its end.
    """
    from .testing import recording

    stash = request.node.stash
    with recording() as recorded:
        stash[_recording] = recorded
        yield recorded
    del stash[_recording]
    # What other fixtures still sent when they were torn down; a test that failed has said enough.
    if _judged in stash:
        _judge(request.node, recorded, start=stash[_judged])


@pytest.fixture
def segment_endpoint() -> Iterator[RunningEndpoint]:
    """The local endpoint on a free port: `.url`, `.events` (each with its `message` and `verdicts`), `.clear()`."""
    from .testing import running_endpoint

    with running_endpoint() as endpoint:
        yield endpoint


# Last, and so only after a test that passed: what comes after a hook that raises is not called.
@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    recorded = item.stash.get(_recording, None)
    if recorded is not None:
        count = len(recorded.events)
        _judge(item, recorded)
        item.stash[_judged] = count


def _judge(item: pytest.Item, recorded: Recording, start: int = 0) -> None:
    choice = _choice(item)
    said = "" if choice == "ignore" else recorded.objections(start)
    if not said:
        return
    text = f"Segment would object to what was sent:\n{said}\n{_HINT}"
    if choice == "warn":
        item.warn(pytest.PytestWarning(text))
    else:
        pytest.fail(text, pytrace=False)


def _choice(item: pytest.Item) -> str:
    marker = item.get_closest_marker(_NAME)
    if marker is None:
        return _checked(item.config.getini(_NAME))
    return _checked(marker.args[0] if marker.args else None)


def _checked(choice: Any) -> str:
    # In an ini file quotes are part of the text, in pyproject.toml they are not.
    word = choice.strip("\"' ") if isinstance(choice, str) else choice
    if word not in _CHOICES:
        raise pytest.UsageError(f"{_NAME} is one of {', '.join(_CHOICES)}, not {choice!r}")
    return str(word)
