"""The official Python SDK's own tests, run on `segment_async.compat`: `python -m tests.conformance.official_suite`.

They come with the SDK, which is installed into an environment of its own if it is not there. Their messages go to a
server on loopback. The exit status is 1 if a test fails that is not excepted here.
"""

import asyncio
import json
import sys
from pathlib import Path

from tests.support.fault_server import FaultServer
from tests.support.programs import finished

from .clients import CLIENTS, PYTHON_ENVIRONMENT

FILES = ("test_client.py", "test_init.py", "test_module.py")
OTHER_FILES = {
    "test_consumer.py": "tests the SDK's own `Consumer`",
    "test_oauth.py": "tests the SDK's own `OauthManager`",
    "test_request.py": "tests the SDK's own `post`",
    "test_utils.py": "tests the SDK's own `clean` and `guess_timezone`",
}

_CONSUMERS = "reads `client.consumers`, an internal of the SDK"
# Its own assertions of texts and dicts do nothing in its own runs: the test class overrides `fail`. Here they count.
_TIMESTAMP = "expects a timestamp without milliseconds, which the SDK does not send either, and its name as the library"
EXCEPTED = {
    "test_client.TestClient.test_user_defined_upload_size": "patches `segment.analytics.consumer.post`",
    "test_client.TestClient.test_proxies": "patches `segment.analytics.request._session`",
    "test_client.TestClient.test_shutdown": _CONSUMERS,
    "test_client.TestClient.test_synchronous": _CONSUMERS,
    "test_client.TestClient.test_user_defined_timeout": _CONSUMERS,
    "test_client.TestClient.test_default_timeout_15": _CONSUMERS,
    "test_init.TestInit.test_max_retries": _CONSUMERS,
    **{
        f"test_client.TestClient.test_advanced_{call}": _TIMESTAMP
        for call in ("group", "identify", "page", "screen", "track")
    },
}


def run() -> dict[str, str | None]:
    """What failed, by test; an empty text: it passed, `None`: it was left out."""
    CLIENTS["python"].set_up()
    (folder,) = PYTHON_ENVIRONMENT.glob("lib/python*/site-packages/segment/analytics/test")
    files = [str(folder / name) for name in FILES]
    unknown = {path.name for path in Path(folder).glob("test_*.py")} - {*FILES, *OTHER_FILES}
    assert not unknown, f"files that are not known here: {unknown}"
    return asyncio.run(_run(files))


async def _run(files: list[str]) -> dict[str, str | None]:
    async with FaultServer() as server:
        said = await finished(
            "-m", "tests.programs.official_suite", json.dumps(list(EXCEPTED)), *files, host=server.url
        )
    assert said.code == 0, said.err
    found: dict[str, str | None] = json.loads(said.out.splitlines()[-1])
    assert found.keys() >= EXCEPTED.keys(), "a test that is excepted is not there any more"
    return found


def main() -> int:
    found = run()
    failed = {test: text for test, text in found.items() if text}
    for test, text in failed.items():
        print(f"{test}:\n{text}\n")
    passed = sum(text == "" for text in found.values())
    print(f"{passed} of {len(found)} tests of the official SDK pass on segment_async.compat; left out:")
    for name, reason in {**EXCEPTED, **OTHER_FILES}.items():
        print(f"  {name}: {reason}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
