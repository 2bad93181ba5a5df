"""`python -m website.package` builds the wheel and the sdist in `dist/`, and checks them as a user gets them.

twine reads their metadata; the sdist, unpacked elsewhere, runs a slice of its own tests; the wheel is installed in a new
environment, where the command works and mypy finds the types.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
DIST: Final = ROOT / "dist"

# Quick ones that need little but files of the sdist: the documentation, the examples, the workflows.
SLICE: Final = [
    "tests/_message",
    "tests/test_public.py",
    "tests/docs/test_readme.py",
    "tests/docs/test_reference.py",
    "tests/docs/test_repository.py",
]

TYPED: Final = """
from typing import assert_type

from segment_async import Client, Delivery, Outcome


async def main(client: Client) -> None:
    delivery = await client.track("user-1", "Order Completed")
    assert_type(delivery, Delivery)
    assert_type(await delivery, Outcome)
"""


def run(*command: str | Path, cwd: Path = ROOT, **variables: str) -> str:
    """Run a command; its output. Ends the program if the command fails."""
    print("+", *(str(word).replace(f"{ROOT}/", "") for word in command), flush=True)
    # Nothing of this environment reaches the packages that are looked at.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run(command, check=False, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE)
    print(done.stdout[-2_000:], end="", flush=True)
    if done.returncode:
        sys.exit(f"failed with {done.returncode}")
    return done.stdout


def main() -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST)
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    names = zipfile.ZipFile(wheel).namelist()
    assert "segment_async/py.typed" in names
    assert all(name.startswith(("segment_async/", "segment_async-")) for name in names), names
    with tempfile.TemporaryDirectory() as folder:
        check_sdist(sdist, Path(folder))
        check_wheel(wheel, Path(folder))
    print(f"{wheel.name} and {sdist.name} are in dist/")


def check_sdist(sdist: Path, folder: Path) -> None:
    """Run a slice of the tests in the unpacked sdist, against its own copy of the package."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    where = run(
        sys.executable,
        "-c",
        "import segment_async; print(segment_async.__file__)",
        cwd=unpacked,
        PYTHONPATH=str(unpacked),
    )
    assert where.startswith(str(unpacked)), where
    run(sys.executable, "-m", "pytest", "-q", *SLICE, cwd=unpacked, PYTHONPATH=str(unpacked))


def check_wheel(wheel: Path, folder: Path) -> None:
    """Use the wheel in an environment that has nothing else."""
    run(sys.executable, "-m", "venv", folder / "env")
    python = folder / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[cli]")
    assert run(python, "-m", "segment_async", "--version", cwd=folder) == run(
        python.with_name("segment-async"), "--version", cwd=folder
    )
    (folder / "typed.py").write_text(TYPED)
    run(sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "typed.py", cwd=folder)


if __name__ == "__main__":
    main()
