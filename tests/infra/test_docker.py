"""The image's recipe: linted, and held to what docs/operations.md says; `infra/docker/try_recipe.py` executes it."""

from __future__ import annotations

import fnmatch
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.rendered import REPOSITORY

DOCKER = REPOSITORY / "infra/docker"
BIN = Path(sys.executable).parent
RECIPE = (DOCKER / "Dockerfile").read_text()


def stage(name: str) -> str:
    """The lines of one stage."""
    (found,) = re.findall(rf"^(FROM [^\n]* AS {name}\n.*?)(?=^FROM |\Z)", RECIPE, re.MULTILINE | re.DOTALL)
    return found


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([BIN / "hadolint", DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_shellcheck_finds_nothing_in_any_script() -> None:
    scripts = sorted((REPOSITORY / "infra").rglob("*.sh")) + sorted((REPOSITORY / "infra").rglob("*.sbatch"))
    assert scripts
    done = subprocess.run([BIN / "shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_is_pinned_by_a_digest_without_default() -> None:
    outside = [base for base in re.findall(r"^FROM (\S+)", RECIPE, re.MULTILINE) if not base.startswith("build-")]
    names = set(re.findall(r"^FROM \S+ AS (\S+)", RECIPE, re.MULTILINE))
    assert [base for base in outside if base not in names | {"scratch"}] == ["${BASE_IMAGE}@${BASE_DIGEST}"]
    assert re.search(r"^ARG BASE_DIGEST$", RECIPE, re.MULTILINE)


def test_the_image_is_no_build_no_root_and_no_health_check() -> None:
    job = stage("job")
    assert "pip" not in job
    assert re.findall(r"^USER (.*)$", job, re.MULTILINE) == ["10001:10001"]
    assert "HEALTHCHECK" not in re.sub(r"#.*", "", RECIPE)
    assert not re.search(r"(?i)^(ARG|ENV).*(secret|token|password|key)", RECIPE, re.MULTILINE)


def test_torch_is_the_one_that_is_pinned() -> None:
    (pinned,) = re.findall(r"^torch==\S+$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert f"ARG TORCH={pinned}\n" in RECIPE


def test_the_packages_of_the_image_are_those_of_the_distribution() -> None:
    (include,) = re.findall(r"^include = \[(.*)\]$", (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    for package in re.findall(r'"(\w+)\*"', include):
        assert f"COPY {package} {package}\n" in stage("build")


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out of the build: the last pattern that matches decides."""
    verdict = False
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            keeps, pattern = pattern.startswith("!"), pattern.removeprefix("!")
            above = [path, *(str(each) for each in Path(path).parents if str(each) != ".")]
            if pattern.startswith("**/"):
                above, pattern = list(Path(path).parts), pattern.removeprefix("**/")
            if any(fnmatch.fnmatchcase(each, pattern) for each in above):
                verdict = not keeps
    return verdict


@pytest.mark.parametrize("path", [".git/config", ".venv/bin/python", "out/demo/README.md", "tests/models.py", ".env"])
def test_what_is_no_part_of_the_image_does_not_reach_the_builder(path: str) -> None:
    assert ignored(path)


def test_what_the_recipe_copies_reaches_the_builder() -> None:
    for line in re.findall(r"^COPY (?!--from)(.*)$", RECIPE, re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert (REPOSITORY / source).exists()
            assert not ignored(source), source
            assert not ignored(f"{source}/x.py")
    assert ignored("actors/.env")
    assert ignored("pipeline/key.pem")


def test_the_executor_reads_the_stages_and_their_arguments_as_a_builder_does() -> None:
    spec = importlib.util.spec_from_file_location("try_recipe", DOCKER / "try_recipe.py")
    assert spec is not None
    assert spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = recipe  # dataclasses look their module up there
    spec.loader.exec_module(recipe)
    arguments, stages = recipe.stages(DOCKER / "Dockerfile")
    assert arguments["ACCELERATOR"] == "cpu"
    assert list(stages) == ["system", "build-cpu", "build-cuda", "build", "inventory", "sbom", "job"]
    assert recipe.filled(stages["build"].base, arguments) == "build-cpu"
    assert [step for step, _ in stages["job"].steps if step in ("RUN", "USER")] == ["RUN", "USER"]
    assert recipe.filled("${A}@$B:c", {"A": "x", "B": "y"}) == "x@y:c"
