"""The files that others read first: workflows, hooks, metadata, the security policy."""

import re
import tomllib

from segment_async import __version__
from tests.docs.blocks import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REPOSITORY = "https://github.com/segment-async/segment-async"


def test_every_action_is_pinned_by_its_full_hash() -> None:
    for path in WORKFLOWS:
        for line in re.findall(r"uses: (.+)", path.read_text()):
            assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v[\d.]+", line), f"{path.name}: {line}"


def test_one_action_has_one_version() -> None:
    pins = {pin for path in WORKFLOWS for pin in re.findall(r"uses: (\S+)@(\S+)", path.read_text())}
    assert len({name for name, _ in pins}) == len(pins)


def test_no_workflow_runs_the_code_of_a_pull_request_with_the_rights_of_the_repository() -> None:
    for path in WORKFLOWS:
        text = path.read_text()
        assert "pull_request_target" not in text
        assert re.search(r"^permissions:( \{\}|\n  contents: read)$", text, re.MULTILINE), path.name
        assert text.count("actions/checkout@") == text.count("persist-credentials: false")


def test_ci_runs_the_same_script_on_each_python_that_is_claimed() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "- run: .ci/run" in text
    claimed = {name.rpartition(" ")[2] for name in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", name)}
    assert claimed
    run = re.search(r"python: \[(.+)\]", text)
    assert run is not None
    assert claimed <= set(re.findall(r"3\.\d+", run[1]))


def test_every_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in [*WORKFLOWS, ROOT / "CONTRIBUTING.md", ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"(?:^|`|run: )make ([a-z-]+)", path.read_text(), re.MULTILINE):
            assert target in targets, f"{path.name}: make {target}"


def test_the_hooks_have_the_versions_of_the_lock() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    versions = {package["name"]: package["version"] for package in lock["package"] if "version" in package}
    pins = re.findall(r"\[([\w-]+)==([\d.]+)\]", (ROOT / ".pre-commit-config.yaml").read_text())
    assert pins
    for name, version in pins:
        assert versions[name] == version


def test_the_lock_names_the_public_index_alone() -> None:
    hosts = set(re.findall(r"https?://([^/\"]+)", (ROOT / "uv.lock").read_text()))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}


def test_the_security_policy_says_where_to_write() -> None:
    assert f"{REPOSITORY}/security/advisories/new" in (ROOT / "SECURITY.md").read_text()


def test_the_package_says_where_its_documentation_and_source_are() -> None:
    urls = PROJECT["project"]["urls"]
    assert {"Documentation", "Source", "Issues", "Changelog"} <= urls.keys()
    assert urls["Source"] == REPOSITORY


def test_modules_that_need_an_extra_name_one_that_exists() -> None:
    extras = PROJECT["project"]["optional-dependencies"].keys()
    for path in (ROOT / "segment_async").rglob("*.py"):
        for named in re.findall(r"segment-async\[([\w,]+)\]", path.read_text()):
            assert set(named.split(",")) <= extras, path.name


def test_every_release_says_what_changed_for_users() -> None:
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    config = (ROOT / "mkdocs.yml").read_text()
    for version in {*versions, __version__}:
        assert (ROOT / "docs" / "releases" / f"{version}.md").is_file()
        assert f"releases/{version}.md" in config


def _files() -> list[str]:
    """Every file that a text may point to."""
    roots = ("segment_async", "tests", "website", "docs")
    return [str(path.relative_to(ROOT)) for root in roots for path in (ROOT / root).rglob("*") if path.is_file()]


def test_what_the_architecture_points_to_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert len(text.splitlines()) <= 120
    section = re.search(r"^## Where do I change …\?\n(.+?)^## ", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", section[1], re.MULTILINE)[2:]
    assert len(rows) > 20
    files = _files()
    for what, where in rows:
        named = re.findall(r"`([^`]+)`", where)
        contents = []
        for path in (each for each in named if re.search(r"/$|\.(py|html|md)$", each)):
            found = [each for each in files if f"/{path}" in f"/{each}" and (path[-1] == "/" or each.endswith(path))]
            assert found, f"{what}: {path}"
            contents += [(ROOT / each).read_text("utf-8") for each in found if each.endswith((".py", ".html"))]
        code = "\n".join(contents)
        for name in (
            each for each in named if re.fullmatch(r"[\w.]+", each) and not re.search(r"\.(py|html|md)$", each)
        ):
            last = name.rpartition(".")[2]
            assert re.search(rf"\b{last}\b", code), f"{what}: {name}"


def test_the_architecture_names_every_module_of_the_core() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    package = ROOT / "segment_async"
    core = [path for folder in ("_message", "_pipeline", "_lifecycle") for path in (package / folder).glob("*.py")]
    modules = {path.stem for path in [*core, *package.glob("_*.py")]} - {"__init__", "__main__", "_version"}
    missing = {name for name in modules if not re.search(rf"(?<![\w]){name}(?![\w])", text)}
    assert missing == set()


def test_every_test_that_is_named_exists() -> None:
    sources = [path for folder in ("segment_async", "tests", "website") for path in (ROOT / folder).rglob("*.py")]
    texts = {path: path.read_text("utf-8") for path in sources}
    names = {path.stem for path in sources} | {
        name for text in texts.values() for name in re.findall(r"def (test_\w+)", text)
    }
    for path, text in texts.items():
        for name in re.findall(r"`(?:[\w/]+/)?(test_\w+)(?:\.py)?`", text):
            assert name in names, f"{path}: {name}"
