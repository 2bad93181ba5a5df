"""Ctrl-C at any place: the drain at exit sends what was accepted, or says what is lost, within its two seconds."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import PROGRAMS, finished

DRAIN_SECONDS = 2.0
# For a machine that has other things to do.
ROOM = 1.5


def interrupted(how: str, meets: str, places: int, folder: Path) -> list[dict[str, Any]]:
    program = (PROGRAMS / "interrupted.py", how, meets, str(places), str(folder))
    said = asyncio.run(finished(*program, host="http://127.0.0.1:9", PYTHONPATH="."))
    assert said.code == 0, said.err
    reports = [json.loads(line) for line in said.out.splitlines()]
    assert len(reports) >= places
    return reports


def complaint(report: dict[str, Any]) -> str | None:
    """What is wrong with the end of one process."""
    lost = set(report["accepted"]) - set(report["taken"])
    said = [line for line in report["err"].splitlines() if line.startswith("segment_async:")]
    found = re.fullmatch(r"segment_async: ([\d,]+) messages? (?:was|were) not sent.*", "\n".join(said))
    told = int(found[1].replace(",", "")) if found else 0
    if report["code"] != 0:
        return f"ended with {report['code']} after {report['seconds']:.1f} s: {report['err'][-2_000:]}"
    if report["seconds"] > DRAIN_SECONDS + ROOM:
        return f"took {report['seconds']:.1f} s"
    if said and not found:
        return f"said {said}"
    if len(lost) > told:
        return f"lost {sorted(lost)} and said {said}"
    return None


@pytest.mark.parametrize("how", ["run_until_complete", "run"])
@pytest.mark.parametrize(("meets", "places"), [("answers", 60), ("stands_still", 5)])
def test_what_was_accepted_is_sent_or_its_loss_is_told(tmp_path: Path, how: str, meets: str, places: int) -> None:
    reports = interrupted(how, meets, places, tmp_path)
    assert any(report["accepted"] for report in reports)
    broken = {report["where"]: what for report in reports if (what := complaint(report)) is not None}
    assert not broken, "\n".join(f"{where}: {what}" for where, what in broken.items())
