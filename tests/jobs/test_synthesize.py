"""The main job end to end on a local Ray, with tiny models of the real classes."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actors.marks import read_marks
from jobs.cli import main
from pipeline.commit import committed_shards, read_records
from pipeline.read_output import sample_rows
from pipeline.storage import Store
from pipeline.summary import add_up

Run = Callable[..., int]

HOSTILE, LONG = "<b>bold</b> & \x1b[31mred", "x" * 100_000
PROMPTS = ["a red heart", "一只猫在沙滩上玩耍", "", "a green tree", "a red heart", HOSTILE, LONG]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "prompts.parquet"
    columns = {
        "prompt": PROMPTS,
        "num_images": [None, 2, 1, 0, 1, None, 1],
        "tags": pa.array([["a"], None, [], ["b", "c"], [], ["d"], []], pa.list_(pa.string())),
        "price": pa.array(["1.50"] * 7).cast(pa.decimal128(5, 2)),
    }
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="module")
def told(tiny_gan: Path, tiny_llm: Path, table: Path, local_ray: None) -> list[str]:
    return [
        f"prompts.uri={table}", f"generate.model={tiny_gan}", f"expand.model={tiny_llm}", "expand.max_new_tokens=8",
        "shards.rows=3", "limits.max_reject_fraction=0.5", "expand.actors.cpus=0.5", "generate.actors.cpus=0.5",
    ]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, told: list[str]) -> Run:
    def run(*overrides: str, verb: str = "synthesize") -> int:
        return main([verb, *told, f"output.uri={tmp_path / 'out'}", *overrides])

    return run


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, told: list[str]) -> tuple[Path, int]:
    """An output and the exit status of the run that made it, which allowed fewer rejects than there are."""
    output = tmp_path_factory.mktemp("first") / "out"
    return output, main(["synthesize", *told, f"output.uri={output}", "limits.max_reject_fraction=0.1"])


@pytest.fixture
def finished(first: tuple[Path, int], tmp_path: Path) -> Path:
    """A copy of that output, where ``run`` finds its own."""
    return Path(shutil.copytree(first[0], tmp_path / "out"))


def digests(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()
    }


def read(root: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(p) for p in sorted(root.glob("data/*.parquet"))])


def test_every_row_is_committed_or_rejected_and_the_dataset_says_so(
    finished: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    out = finished
    assert run() == 0
    store = Store(str(out))
    totals = add_up(read_records(store, sorted(committed_shards(store))))
    assert (totals.shards, totals.planned, totals.committed, totals.rejected) == (3, 7, 5, 2)
    assert dict(totals.reasons) == {"empty_prompt": 1, "bad_num_images": 1}
    printed = capsys.readouterr().out
    assert "7 = 5 committed + 2 rejected" in printed
    assert "report.html" in printed

    rows = read(out)
    assert rows.num_rows == totals.images == 6
    assert rows["prompt"].to_pylist() == [PROMPTS[0], PROMPTS[1], PROMPTS[1], PROMPTS[4], PROMPTS[5], PROMPTS[6]]
    assert len(set(rows["id"].to_pylist())) == 6
    assert rows.schema.field("price").type == pa.decimal128(5, 2)
    assert rows["tags"].to_pylist()[1:3] == [None, None]
    assert set(rows["description_status"].to_pylist()) <= {
        "accepted", "empty", "refused", "truncated", "echo", "drifted", "unsupported_language", "too_long", "failed",
    }  # fmt: skip
    for row in rows.select(["id", "image", "width", "height"]).to_pylist():
        image = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert image.size == (row["width"], row["height"])
        assert read_marks(row["image"]["bytes"]).image_id == row["id"]

    rejects = pa.concat_tables([pq.read_table(p) for p in sorted(out.glob("rejects/*.parquet"))])
    assert rejects["reject_reason"].to_pylist() == ["empty_prompt", "bad_num_images"]
    assert rejects["price"].type == pa.decimal128(5, 2)
    assert "7 rows" in (out / "README.md").read_text() or "7" in (out / "README.md").read_text()
    assert (out / "report.html").is_file()


def test_a_second_start_writes_nothing_and_another_config_is_refused(
    finished: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(finished)
    assert run() == 0
    assert digests(finished) == before
    assert "nothing to do: all 3 shards are committed" in capsys.readouterr().err
    assert run("seed=5", "generate.images=2") == 2
    assert "generate.images is 1 there and 2 here; seed is 0 there and 5 here" in capsys.readouterr().err
    assert digests(finished) == before
    assert run("generate.actors.max=3", "limits.stall_timeout=100") == 0, "how it runs is no part of what it makes"


def test_the_rejects_are_a_prompt_table(tmp_path: Path, finished: Path, run: Run) -> None:
    rejects = finished / "rejects"
    assert run(f"prompts.uri={rejects}", f"output.uri={tmp_path / 'retry'}", "limits.max_reject_fraction=1") == 0
    store = Store(str(tmp_path / "retry"))
    totals = add_up(read_records(store, sorted(committed_shards(store))))
    assert (totals.planned, totals.rejected) == (2, 2)
    again = pa.concat_tables([pq.read_table(p) for p in sorted((tmp_path / "retry/rejects").glob("*.parquet"))])
    assert again.column_names == pq.read_table(next(rejects.glob("*.parquet"))).column_names


def test_too_many_rejects_end_with_status_1_after_the_work_is_done(
    first: tuple[Path, int], finished: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    output, status = first
    assert status == 1
    assert len(committed_shards(Store(str(output)))) == 3
    capsys.readouterr()
    assert run("limits.max_reject_fraction=0.1") == 1
    assert "2 of 7 rows were rejected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("format_", "encoding"),
    [("parquet", "png"), pytest.param("webdataset", "jpeg", marks=pytest.mark.campaign), ("files", "webp")],
)
def test_render_row_makes_the_same_image_alone(
    tmp_path: Path, run: Run, format_: str, encoding: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"output.format={format_}", f"output.image.encoding={encoding}", "expand=null") == 0
    out = tmp_path / "out"
    records = read_records(Store(str(out)), [0])
    (row,) = sample_rows(Store(str(out)), format_, records, 1)
    image_id = str(row.values["id"])
    target = tmp_path / "again"
    assert main(["render-row", str(out), image_id, "--to", str(target)]) == 0
    assert "the same bytes as in the dataset" in capsys.readouterr().out
    assert main(["render-row", str(out), "nobody", "--to", str(target)]) == 2


def test_variants_and_row_options_are_honoured(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "options.parquet"
    pq.write_table(
        pa.table({"prompt": ["a", "b"], "id": ["x", "../y"], "seed": [7, None], "num_images": [2, 1],
                  "recipe": ["photo", None], "negative_prompt": ["blur", None]}),
        path,
    )  # fmt: skip
    assert run(f"prompts.uri={path}", "expand.variants=2") == 0
    rows = read(tmp_path / "out")
    assert rows["id"].to_pylist() == ["x-v0-0", "x-v0-1", "x-v1-0", "x-v1-1", "../y-v0-0", "../y-v1-0"]
    assert rows["seed"].to_pylist()[:4] == [7, 8, 9, 10]
    assert rows["negative_prompt"].to_pylist()[0] == "blur"


def test_plan_shows_what_is_left_and_starts_nothing(
    tmp_path: Path, finished: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"output.uri={tmp_path / 'other'}", verb="plan") == 0
    printed = capsys.readouterr().out
    assert "3 of 3 rows; 0 committed, 3 left" in printed
    assert not (tmp_path / "other").exists()
    assert run(verb="plan") == 0
    printed = capsys.readouterr().out
    assert "3 committed, 0 left" in printed
    assert "from 7 rows of earlier shards" in printed
