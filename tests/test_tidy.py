"""Tidy: lint, types, floors, sizes, and words against code. A ratchet: it stops small things from growing."""

import re
import shutil
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE_LINES_MAX = 350

# Files past the bound, with the size they may have at most. These numbers only ever go down.
LONG_FILES: dict[str, int] = {}

TOP_LEVEL = {"README.md", "LICENSE", "pyproject.toml", "p2pnode", "protocol", "tests", "examples"}

pytestmark = pytest.mark.tidy


def run(*command: str) -> None:
    """A tool of this environment, on the sources of this checkout."""
    tool = shutil.which(command[0], path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip(f"{command[0]} is not installed: pip install '.[test]'")
    done = subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def commands() -> set[str]:
    """Every command as it is typed."""
    from p2pnode.commands import NOUNS

    return {" ".join((noun, verb)).strip() for noun, (_, verbs) in NOUNS.items() for verb in verbs or ("",)}


def test_ruff_finds_nothing():
    run("ruff", "check", "--no-cache", ".")


def test_the_format_is_ruffs():
    run("ruff", "format", "--check", "--no-cache", ".")


def test_types_hold_under_mypy_strict():
    run("mypy", "--no-incremental", "--cache-dir", "/dev/null")


def test_imports_only_go_down_the_floors():
    run("lint-imports", "--no-cache")


def test_both_packages_come_from_one_place_and_protocol_is_ours():
    places = {}
    for name in ("p2pnode", "protocol"):
        spec = util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None, f"{name} is a bare folder: is tests/ on the path before the package?"
        places[name] = Path(spec.origin).parents[1]
    assert places["p2pnode"] == places["protocol"]
    assert util.find_spec("protocol.connection") is not None
    try:
        owners = metadata.packages_distributions().get("protocol", [])
    except metadata.PackageNotFoundError:
        owners = []
    assert set(owners) <= {"p2pnode"}, "another project's package named protocol is installed here"


def test_nothing_else_stands_at_the_top_level():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    assert {name.split("/")[0] for name in tracked if not name.startswith(".")} <= TOP_LEVEL
    assert not [name for name in tracked if re.fullmatch(r"tests/(.*/)?__init__\.py", name)]


def test_no_file_grows_past_its_bound():
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for package in ("p2pnode", "protocol")
        for path in (ROOT / package).rglob("*.py")
    }
    long = {name: size for name, size in sizes.items() if size > LONG_FILES.get(name, FILE_LINES_MAX)}
    assert not long, "is there a second noun inside?"
    shrunk = {name: size for name, size in LONG_FILES.items() if sizes.get(name, 0) < size}
    assert not shrunk, "lower the bound to the new size"


def test_every_module_says_what_it_is_for():
    silent = [
        str(path.relative_to(ROOT))
        for package in ("p2pnode", "protocol")
        for path in (ROOT / package).rglob("*.py")
        if path.stat().st_size and path.name != "_version.py" and not path.read_text().startswith('"""')
    ]
    assert not silent


def test_every_command_and_exit_code_is_in_the_readme():
    from p2pnode import failures

    readme = (ROOT / "README.md").read_text()
    assert [words for words in commands() if f"`p2pnode {words}`" not in readme] == []
    table = dict(re.findall(r"^\| (\d+) \| (.+?) \|$", readme, re.MULTILINE))
    assert set(table) == {str(int(code)) for code in failures.Exit}


def test_every_command_in_the_readme_exists():
    readme = (ROOT / "README.md").read_text()
    nouns = {words.split()[0] for words in commands()}
    for first, second in re.findall(r"p2pnode ([a-z]+)(?: ([a-z]+))?", readme):
        if first in nouns:
            assert first in commands() or f"{first} {second}" in commands(), f"p2pnode {first} {second}"


def test_ci_runs_the_test_command_of_the_readme():
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    assert ".venv/bin/pytest -q" in readme
    assert 'bin/pytest" -q' in ci
