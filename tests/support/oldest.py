"""Prints the oldest versions of our dependencies that `pyproject.toml` allows, the extras' included, for pip."""

import tomllib
from itertools import chain
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
oldest = [
    each.replace(">=", "==") for each in chain(project["dependencies"], *project["optional-dependencies"].values())
]
# The tests' own part of OpenTelemetry goes with one version of the other only.
print(*oldest, *(each.replace("-api", "-sdk") for each in oldest if each.startswith("opentelemetry-api")))
