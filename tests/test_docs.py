"""What the pages name is there: tests, modules, commands; and the floors of dependencies are the advisories'."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [
        *ROOT.glob("docs/*.md"),
        *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ]
)
_FILE = re.compile(r"`((?:tests|pipeline|actors|jobs|infra|examples|docs)/[\w./*-]+)`")
_MODULE = re.compile(r"python -m ((?:tests|jobs)(?:\.\w+)+)")
_TEST = re.compile(r"python -m pytest ([\w./]+)")
_FLOOR = re.compile(r"^\| ([\w-]+) ([\d.]+) \| .*(?:CVE|GHSA)-", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    named = [*_FILE.findall(text), *_TEST.findall(text)]
    missing = [name for name in named if not any(ROOT.glob(name.rstrip("/")))]
    modules = [name.replace(".", "/") for name in _MODULE.findall(text)]
    missing += [
        name for name in modules if not any((ROOT / f"{name}{end}").is_file() for end in (".py", "/__init__.py"))
    ]
    assert missing == []


@pytest.mark.parametrize("page", ["reliability.md", "promises.md"])
def test_each_promise_names_its_test(page: str) -> None:
    rows = [line for line in (ROOT / "docs" / page).read_text().splitlines() if line.startswith("| ")]
    promises = [row.split(" | ")[:2] for row in rows if not row.startswith(("| promise", "| ---"))]
    assert len(promises) > 9
    assert [promise for promise, test in promises if "`tests/" not in test] == []


def test_floors_are_those_that_the_advisories_ask_for_and_pins_lie_above() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    floors: dict[str, set[str]] = {}
    for one in map(Requirement, asked):
        floors.setdefault(one.name.lower(), set()).update(str(part.version) for part in one.specifier)
    pins = dict(
        line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    told = {name.lower(): version for name, version in _FLOOR.findall((ROOT / "SECURITY.md").read_text())}
    assert len(told) == 8
    for name, version in told.items():
        assert floors[name] == {version}, name
        # vLLM has an environment of its own.
        assert name == "vllm" or Version(pins[name]) >= Version(version), name
