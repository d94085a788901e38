"""promptmill refine: rounds over what matches its words least, each an ordinary run; the best so far is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.checks import missing_words
from actors.errors import UserError
from jobs.cli import main
from pipeline.captioned import open_captioned
from pipeline.config_file import load_config
from pipeline.refine import refine
from pipeline.refine_config import RefineConfig
from tests.shapes import save_table

pytestmark = pytest.mark.usefixtures("local_ray")
PROMPTS = ["a red heart", "一只猫在沙滩上玩耍", "a green tree", "a smiling face", "a blue fish", "a house"]


@pytest.fixture(scope="module")
def settings(tiny_gan: Path, tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("table") / "prompts.parquet"
    pq.write_table(pa.table({"prompt": PROMPTS, "label": list("abcdef")}), path)
    return [f"prompts.uri={path}", f"expand.model={tiny_llm}", "expand.recipe=art", "expand.max_new_tokens=8",
            f"generate.model={tiny_gan}", "shards.rows=4", "refine.rounds=2", "refine.share=0.5",
            "refine.min_gain=0"]  # fmt: skip


@pytest.fixture
def told(settings: list[str], tmp_path: Path) -> list[str]:
    return [*settings, f"output.uri={tmp_path / 'out'}"]


@pytest.fixture(scope="module")
def first(settings: list[str], tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """What three rounds left."""
    output = tmp_path_factory.mktemp("first") / "out"
    assert main(["refine", *settings, f"output.uri={output}", "--quiet"]) == 0
    return output


@pytest.fixture
def finished(first: Path, tmp_path: Path) -> None:
    """A copy of it, where ``told`` has the output."""
    shutil.copytree(first, tmp_path / "out")


def kept(directory: Path) -> dict[str, float]:
    rows = pq.read_table(directory / "out/best").to_pylist()
    assert len(rows) == len(PROMPTS)
    return {row["prompt"]: row["scores"]["similarity"] for row in rows}


def test_each_prompt_keeps_its_best_round_and_no_round_makes_it_worse(told, finished, tmp_path, capsys):
    assert main(["refine", *told, "--quiet"]) == 0
    document = json.loads((tmp_path / "out/refine.json").read_text())
    means = [one["similarity"] for one in document["rounds"]]
    assert [one["prompts"] for one in document["rounds"]] == [6, 3, 3]
    assert means == sorted(means)
    found = kept(tmp_path)
    assert set(found) == set(PROMPTS)
    assert sum(found.values()) / len(found) == pytest.approx(means[-1], abs=1e-6)
    every = [pq.read_table(tmp_path / f"out/round-{n}/data").to_pylist() for n in range(3)]
    for prompt, similarity in found.items():
        scores = [row["scores"]["similarity"] for rows in every for row in rows if row["prompt"] == prompt]
        assert similarity == max(scores)
    # Rounds take up the lowest of the round before, under their own ids, with the columns that they came with.
    first = sorted(every[0], key=lambda row: row["scores"]["similarity"])
    assert {row["prompt"] for row in every[1]} == {row["prompt"] for row in first[:3]}
    assert {row["prompt_id"] for row in every[1]} <= {row["prompt_id"] for row in every[0]}
    assert {row["variant"] for row in every[1]} == {1}
    assert {row["label"] for row in every[1]} <= set("abcdef")
    assert "round 2" in capsys.readouterr().out
    assert "Similarity of images and words" in (tmp_path / "out/report.html").read_text()


def test_the_same_command_goes_on_and_repeats_nothing(told, finished, tmp_path):
    config = load_config(RefineConfig, None, told)
    before = json.loads((tmp_path / "out/refine.json").read_text())
    objects = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("round-*/data/*")}
    best = {path.name: path.read_bytes() for path in (tmp_path / "out/best").iterdir()}
    refine(config, quiet=True)
    assert json.loads((tmp_path / "out/refine.json").read_text()) == before
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("round-*/data/*")} == objects
    assert {path.name: path.read_bytes() for path in (tmp_path / "out/best").iterdir()} == best


@pytest.mark.parametrize(
    ("change", "rounds", "said"),
    [
        pytest.param("refine.min_gain=1", 2, "below refine.min_gain", marks=pytest.mark.campaign),
        pytest.param("refine.images=7", 2, "9 images were made", marks=pytest.mark.campaign),
    ],
)
def test_it_stops_on_a_budget_or_when_little_is_gained(told, tmp_path, change, rounds, said):
    made, reason = refine(load_config(RefineConfig, None, [*told, change]), quiet=True)
    assert len(made) == rounds
    assert said in reason
    assert len(kept(tmp_path)) == 6


def test_other_settings_on_the_same_output_are_refused_and_fewer_rounds_leave_nothing_behind(told, finished, tmp_path):
    with pytest.raises(UserError, match="other settings of refine"):
        refine(load_config(RefineConfig, None, [*told, "refine.share=0.9"]), quiet=True)
    refine(load_config(RefineConfig, None, [*told, "refine.rounds=1"]), quiet=True)
    assert len(kept(tmp_path)) == 6


def test_other_formats_are_refused(told):
    with pytest.raises(UserError, match=r"output\.format must be parquet"):
        refine(load_config(RefineConfig, None, [*told, "output.format=files"]), quiet=True)


def test_lost_words_are_named_in_order():
    assert missing_words("A red cat by three boxes", "Cats on a box, in red light.") == ["three"]
    assert missing_words("一只猫", "a cat, 猫") == ["一", "只"]
    assert missing_words("the cat", "cats") == []


def test_hard_examples_are_real_pictures_that_the_lowest_prompts_name(tmp_path, capsys):
    """Of scored images; pictures, captions and encoder are the shapes and the embedded one."""
    scores = {"a red circle": 0.1, "a blue square": 0.6, "a green circle": 0.7}
    rows = [{"id": f"p{n}", "prompt": prompt, "scores": {"similarity": score}, "image": {"bytes": b"", "path": None}}
            for n, (prompt, score) in enumerate(scores.items())]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "made.parquet")
    save_table(tmp_path / "shapes.parquet")
    hard = tmp_path / "out/hard.parquet"
    told = ["hard-examples", str(tmp_path / "made.parquet"), str(tmp_path / "shapes.parquet"), str(hard)]
    assert main([*told, "--share", "0.34", "--others", "0.5"]) == 0
    assert "1 hard prompts" in capsys.readouterr().out
    table = open_captioned(str(hard))
    assert table.rows == 96
    named = [row for row in pq.read_table(hard).to_pylist() if row["weight"] > 0.5]
    pictured = [row for row in pq.read_table(tmp_path / "shapes.parquet").to_pylist() if "red circle" in str(row)]
    assert len(named) == len(pictured) > 1
    assert all("red circle" in row["caption"] for row in named)
    pq.write_table(pa.Table.from_pylist([row | {"scores": None} for row in rows]), tmp_path / "made.parquet")
    assert main(told) == 2
    assert "select.score=true" in capsys.readouterr().err
