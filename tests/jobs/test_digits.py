"""The digits example, shortened: words in two languages become digits that an independent classifier reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.campaign  # minutes of training: `python -m pytest tests/jobs/test_digits.py -m campaign`
REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples/digits"


def call(directory: Path, *words: str) -> str:
    """Runs a command of the README in a directory of its own."""
    ended = subprocess.run(
        [sys.executable, *words], cwd=directory, capture_output=True, text=True, timeout=3600, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def read(tmp_path_factory) -> dict[str, float]:
    """Shares of digits read as asked, after 300 of the example's 2,000 steps."""
    directory = tmp_path_factory.mktemp("digits")
    call(directory, str(EXAMPLE / "prepare.py"), "out/digits.parquet")
    # One thread each: other tests have the other core.
    told = ["schedule.steps=200", "workers.cpus=1"]
    call(directory, "-m", "jobs", "train-encoder", str(EXAMPLE / "encoder.yaml"), *told, "--quiet")
    told = ["workers.cpus=1", "adversarial.steps=300", "cadence.watch=300", "cadence.checkpoint=300"]
    call(directory, "-m", "jobs", "train-gan", str(EXAMPLE / "gan.yaml"), *told, "--quiet")
    said = call(directory, str(EXAMPLE / "judge.py"), "out/digits-gan/model")
    return {line.split(":")[0]: float(line.split(":")[1].strip(" %")) / 100 for line in said.splitlines()}


def test_the_game_alone_learns_to_draw_the_digit_that_the_words_name(read):
    assert read["classifier"] > 0.95, "the judge can read"
    assert read["en"] >= 0.95


def test_chinese_is_drawn_as_well_as_english(read):
    assert abs(read["zh"] - read["en"]) <= 0.05
