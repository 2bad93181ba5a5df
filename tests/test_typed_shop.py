"""The example of a shop with a tracking plan: its own tests pass, and fail when its plan and its events drift apart."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHOP = Path(__file__).parents[1] / "examples" / "typed_shop"


def run(folder: Path) -> str:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx2")
    command = [sys.executable, "-m", "pytest", "-p", "no:asyncio", "-p", "no:cacheprovider", "-q", str(folder)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100).stdout


def copy(folder: Path) -> Path:
    return shutil.copytree(SHOP, folder / "shop", ignore=shutil.ignore_patterns("__pycache__"))


def test_its_tests_pass() -> None:
    assert "2 passed" in run(SHOP)


def test_they_fail_when_the_plan_changes(tmp_path: Path) -> None:
    shop = copy(tmp_path)
    plan = json.loads((shop / "plan.json").read_text())
    order = next(rule for rule in plan["rules"] if rule["key"] == "Order Completed")
    order["jsonSchema"]["properties"]["properties"]["properties"]["order id"]["type"] = "integer"
    (shop / "plan.json").write_text(json.dumps(plan))
    said = run(shop)
    assert "2 failed" in said
    assert "plan (plan-violation): properties.order id: Invalid type. Expected: integer, given: string" in said
