"""Candidates, similarity and near-duplicates: which images of a run are kept, and that every row is accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from actors.contracts import ImageJob
from actors.errors import RowError, UserError
from actors.scorer import Scorer, ScorerSettings
from pipeline import columns as c
from pipeline.assemble import JobSheet
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.render_row import render_row
from pipeline.select import select
from pipeline.storage import Store
from pipeline.synthesize import Summary, settle, synthesize
from tests.pipeline.outputs import png

pytestmark = pytest.mark.usefixtures("local_ray")
PROMPTS = ["a red heart", "一只猫在沙滩上玩耍", "a green tree", "a smiling face", "a blue fish"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("select")


@pytest.fixture(scope="module")
def make(tiny_gan: Path, place: Path, local_ray: None) -> Any:
    """Runs the pipeline over five prompts; returns the summary, the output's rows and its rejects."""
    pq.write_table(pa.table({"id": [f"p{n}" for n in range(5)], "prompt": PROMPTS}), place / "prompts.parquet")

    def run(name: str, *more: str) -> tuple[Summary, list[dict[str, Any]], list[dict[str, Any]]]:
        told = [f"prompts.uri={place / 'prompts.parquet'}", f"output.uri={place / name}", "expand=null",
                f"generate.model={tiny_gan}", "shards.rows=3", *more]  # fmt: skip
        summary = synthesize(load_config(SynthesizeConfig, None, told), quiet=True)
        rows = [row for file in sorted((place / name / "data").iterdir()) for row in pq.read_table(file).to_pylist()]
        rejects = [row for file in (place / name / "rejects").glob("*") for row in pq.read_table(file).to_pylist()]
        return summary, rows, rejects

    return run


@pytest.fixture(scope="module")
def every(make: Any) -> list[dict[str, Any]]:
    """Four scored images of each prompt."""
    rows: list[dict[str, Any]] = make("all", "generate.images=4", "select.score=true")[1]
    return rows


def test_the_best_candidates_are_kept_under_their_own_ids(make, every, place):
    scores = {row["id"]: row["scores"]["similarity"] for row in every}
    assert len(scores) == 20
    assert all(-1 <= score <= 1 for score in scores.values())
    summary, kept, _ = make("best", "generate.images=2", "generate.candidates=4")
    assert summary.totals.images == 10
    for prompt in range(5):
        own = {name: score for name, score in scores.items() if name.startswith(f"p{prompt}-")}
        best = sorted(own, key=lambda name: -own[name])[:2]
        found = [row for row in kept if row["prompt_id"] == f"p{prompt}"]
        assert {row["id"] for row in found} == set(best)
        assert [row["scores"]["similarity"] for row in found] == [pytest.approx(own[row["id"]]) for row in found]
    # A candidate's name and seed are those that it has without a choice: its row alone renders it again.
    assert {row["id"]: row["seed"] for row in kept}.items() <= {row["id"]: row["seed"] for row in every}.items()
    assert render_row(Store(str(place / "best")), kept[-1]["id"]).same


def test_rows_with_no_image_similar_enough_are_rejects_with_their_score(make, every):
    firsts = [row for row in every if row["image_index"] == 0]
    ordered = sorted(firsts, key=lambda row: row["scores"]["similarity"])
    limit = (ordered[1]["scores"]["similarity"] + ordered[2]["scores"]["similarity"]) / 2
    # A limit of 1 takes nothing for a duplicate.
    summary, kept, rejects = make("some", f"select.min_similarity={limit}", "select.dedupe=1.0")
    assert (summary.totals.planned, summary.totals.committed, summary.totals.rejected) == (5, 3, 2)
    assert {row["prompt"] for row in kept} == {row["prompt"] for row in ordered[2:]}
    for row in rejects:
        assert row["reject_reason"] == "low_similarity"
        score = next(one["scores"]["similarity"] for one in firsts if one["prompt"] == row["prompt"])
        assert f"{score:.4f}" in row["reject_detail"]


def test_near_duplicates_inside_a_shard_are_dropped(make):
    """Random weights draw all but the same: of each shard the first image is left."""
    summary, kept, rejects = make("few", "select.dedupe=0.2")
    assert [row["prompt_id"] for row in kept] == ["p0", "p3"]
    assert {row["reject_reason"] for row in rejects} == {"near_duplicate"}
    assert summary.totals.planned == summary.totals.committed + summary.totals.rejected == 5


@pytest.mark.parametrize(("asked", "committed"), [(1, True), (2, True), (3, False)])
def test_a_prompt_of_which_too_few_images_could_be_rendered_is_a_reject(asked, committed):
    """Of three candidates one could not be made: enough for two images, not for three."""
    block = pa.table(
        {c.DESCRIPTION: ["a"], c.PROMPT: ["a"], c.IMAGES: [asked], c.ROW: [0], c.STAGE: pa.nulls(1, pa.string()),
         c.REASON: pa.nulls(1, pa.string()), c.DETAIL: pa.nulls(1, pa.string())}
    )  # fmt: skip
    sheet = JobSheet([ImageJob(f"a-v0-{n}", "a", None, n, None, None) for n in range(3)], [0, 0, 0], [0, 1, 2])
    scorer = Scorer(ScorerSettings("package:promptmill/encoder", False, None, None, "description"), torch.device("cpu"))
    errors = {1: RowError("render_failed", "the renderer failed")}
    found = select(scorer, block, sheet, errors, lambda job: png(job * 40))
    assert len(found.kept) == (asked if committed else 0)
    assert found.block[c.REASON].to_pylist() == [None if committed else "render_failed"]


def test_choices_are_repeated_to_the_byte(make, place):
    make("best", "generate.images=2", "generate.candidates=4")
    make("again", "generate.images=2", "generate.candidates=4", "generate.batch_rows=2")
    for name in sorted(path.name for path in (place / "best/data").iterdir()):
        assert (place / "best/data" / name).read_bytes() == (place / "again/data" / name).read_bytes()


def test_what_chooses_is_part_of_the_fingerprint(make, place, tiny_gan):
    make("best", "generate.images=2", "generate.candidates=4")
    for change, said in (("generate.candidates=3", "generate.candidates"), ("select.dedupe=0.9", "select.dedupe")):
        told = [f"prompts.uri={place / 'prompts.parquet'}", f"output.uri={place / 'best'}", "expand=null",
                f"generate.model={tiny_gan}", "shards.rows=3", "generate.images=2", "generate.candidates=4",
                change]  # fmt: skip
        config = load_config(SynthesizeConfig, None, told)
        with pytest.raises(UserError, match=said):
            settle(config, Store(config.output.uri))
