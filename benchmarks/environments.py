"""A virtual environment for each contestant, in `benchmarks/.envs/`: created once, kept until its requirements change.

If an environment cannot be created (no registry, no Node), its contestants are left out and the results say so.
"""

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks import workload
from benchmarks.contestants import NODE_PACKAGES, REQUIREMENTS, Contestant

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).parent / ".envs"
TABLES = FOLDER / "tables.json"
LIST_INSTALLED = (
    "import json, importlib.metadata as m; print(json.dumps({d.name: d.version for d in m.distributions()}))"
)


def prepare(name: str) -> str | None:
    """Create the environment if it does not exist. Returns `None`, or why that failed."""
    FOLDER.mkdir(exist_ok=True)
    stamp, wanted = FOLDER / name / "made-for.txt", f"{sys.version}\n{_requirements(name)}"
    if stamp.exists() and stamp.read_text() == wanted:
        return None
    shutil.rmtree(FOLDER / name, ignore_errors=True)
    problem = _create_node() if name == "node" else _create_python(name)
    if problem is None:
        stamp.write_text(wanted)
    return problem


def _requirements(name: str) -> str:
    return "\n".join(NODE_PACKAGES if name == "node" else REQUIREMENTS[name])


def _create_python(name: str) -> str | None:
    venv.create(FOLDER / name, with_pip=True)
    words = [word for requirement in REQUIREMENTS[name] for word in requirement.split()]
    return _run([str(python(name)), "-m", "pip", "install", "--quiet", *words])


def _create_node() -> str | None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "Node and npm are not installed"
    (FOLDER / "node").mkdir()
    TABLES.write_text(json.dumps(workload.TABLES))
    return _run(["npm", "install", "--silent", "--prefix", str(FOLDER / "node"), *NODE_PACKAGES])


def _run(command: list[str]) -> str | None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1]


def python(name: str) -> Path:
    """The environment's interpreter."""
    return FOLDER / name / "bin" / "python"


def probe_command(contestant: Contestant, task: dict[str, object]) -> list[str]:
    """The command that runs one measurement of this contestant, from the repository's root."""
    if contestant.environment == "node":
        task |= {"modules": str(FOLDER / "node"), "tables": str(TABLES)}
        script = str(Path(__file__).parent / "adapters" / "node.mjs")
        return ["node", "--expose-gc", script, json.dumps(task)]
    return [str(python(contestant.environment)), "-m", "benchmarks.probes", json.dumps(task)]


def versions(name: str) -> dict[str, str]:
    """The installed packages and their versions."""
    if name == "node":
        listed = json.loads(_output(["npm", "ls", "--json", "--prefix", str(FOLDER / "node")]))
        return {package: found["version"] for package, found in listed["dependencies"].items()}
    return dict(json.loads(_output([str(python(name)), "-c", LIST_INSTALLED])))


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def draw(results: Path) -> int:
    """Draw the README's plots with matplotlib, in an environment of its own."""
    problem = prepare("plots")
    if problem:
        print(f"no plots: {problem}", file=sys.stderr)
        return 1
    script = str(Path(__file__).parent / "report" / "plots.py")
    return subprocess.run(
        [str(python("plots")), script, str(results), str(ROOT / "docs" / "images")], check=False
    ).returncode
