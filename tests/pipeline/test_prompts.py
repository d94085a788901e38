"""Prompt tables: what is found, what is read, what is refused; ids, repeats and the plan."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.errors import UserError
from pipeline.columns import choose_columns
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.config_stages import Prompts
from pipeline.plan import Plan
from pipeline.prompts import open_table
from pipeline.row_ids import find_repeats
from pipeline.source import RowReader


def write(path: Path, table: dict[str, object] | pa.Table, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path, **options)
    return path


def plan_of(uri: Path | str, rows: int = 3, *overrides: str) -> tuple[Plan, SynthesizeConfig]:
    config = load_config(SynthesizeConfig, None, [f"prompts.uri={uri}", f"shards.rows={rows}", *overrides])
    table = open_table(config.prompts)
    columns = choose_columns(table.schema, config.prompts)
    return Plan(table, columns, config.shards.rows, find_repeats(table, columns)), config


def blocks_of(plan: Plan, config: SynthesizeConfig) -> list[pa.Table]:
    reader = RowReader(plan.table, plan.columns, config, frozenset({"faithful", "photo"}))
    return [next(iter(reader.blocks(plan.shard(k)))) for k in range(plan.shards)]


def control(block: pa.Table, name: str) -> list[object]:
    return block[f"__promptmill_{name}"].to_pylist()


def test_path_directory_and_glob_give_the_same_rows_in_file_order(tmp_path: Path) -> None:
    write(tmp_path / "t/b.parquet", {"prompt": ["c", "d"]})
    write(tmp_path / "t/a.parquet", {"prompt": ["a", "b"]})
    write(tmp_path / "t/_hidden/x.parquet", {"prompt": ["no"]})
    for uri in (tmp_path / "t", tmp_path / "t/*.parquet", f"file://{tmp_path}/t"):
        plan, config = plan_of(uri)
        assert [row for block in blocks_of(plan, config) for row in block["prompt"].to_pylist()] == ["a", "b", "c", "d"]


def test_shards_cross_files_and_row_groups_and_lose_nothing(tmp_path: Path) -> None:
    for number in range(3):
        rows = [f"p{number}-{i}" for i in range(7)]
        write(tmp_path / f"{number}.parquet", {"prompt": rows}, row_group_size=2)
    plan, config = plan_of(tmp_path, 4)
    blocks = blocks_of(plan, config)
    assert [b.num_rows for b in blocks] == [4, 4, 4, 4, 4, 1]
    assert [p for b in blocks for p in b["prompt"].to_pylist()] == [f"p{n}-{i}" for n in range(3) for i in range(7)]
    limited, config = plan_of(tmp_path, 4, "prompts.limit=9")
    assert [b.num_rows for b in blocks_of(limited, config)] == [4, 4, 1]


def test_carried_columns_keep_their_arrow_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": pa.array(["a", "b"]).dictionary_encode(),
            "tags": pa.array([["x"], None], pa.list_(pa.string())),
            "box": pa.array([{"w": 1}, {"w": 2}], pa.struct([("w", pa.int16())])),
            "price": pa.array([None, "2.50"]).cast(pa.decimal128(6, 2)),
            "when": pa.array([0, 1], pa.timestamp("ms", tz="Asia/Shanghai")),
            "kind": pa.array(["u", "v"]).dictionary_encode(),
        }
    )
    plan, config = plan_of(write(tmp_path / "t.parquet", table))
    (block,) = blocks_of(plan, config)
    for name in ("tags", "box", "price", "when", "kind"):
        assert block.schema.field(name).type == table.schema.field(name).type
        assert block[name].to_pylist() == table[name].to_pylist()


def test_only_the_asked_columns_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"prompt": ["a"], "keep": [1], "drop": [2], "description": ["clash"]})
    plan, _ = plan_of(path, 3, "prompts.columns=[keep]")
    assert plan.columns.read == ("prompt", "keep")
    with pytest.raises(UserError, match=r"'description'.*prompts\.columns"):
        plan_of(path)


def test_ids_are_the_tables_own_or_content_hashes_with_occurrence(tmp_path: Path) -> None:
    plan, config = plan_of(write(tmp_path / "t.parquet", {"prompt": ["a", "b", "a", "a"]}), 2)
    ids = [i for block in blocks_of(plan, config) for i in control(block, "id")]
    assert len(set(ids)) == 4
    assert ids[2:] == [f"{ids[0]}-1", f"{ids[0]}-2"]
    shuffled, config = plan_of(write(tmp_path / "s.parquet", {"x": [1, 2], "prompt": ["b", "a"]}), 2)
    assert control(blocks_of(shuffled, config)[0], "id") == [ids[1], ids[0]], "order and other columns do not matter"
    own, config = plan_of(write(tmp_path / "o.parquet", {"prompt": ["a", "b", "a"], "id": ["../x", "2", None]}), 9)
    assert control(blocks_of(own, config)[0], "id") == ["../x", "2", ids[0]]


def test_a_row_that_cannot_be_made_keeps_its_place_with_a_reason(tmp_path: Path) -> None:
    cases = [
        ("fine", {}, None),
        (None, {}, "empty_prompt"),
        ("", {}, "empty_prompt"),
        (" \t\n\u200b\x07", {}, "empty_prompt"),
        ("x" * 200_001, {}, "prompt_too_long"),
        ("y" * 100_000, {}, None),
        ("\x1b[31mred\x00", {}, None),
        ("n0", {"num_images": 0}, "bad_num_images"),
        ("n-1", {"num_images": -1}, "bad_num_images"),
        ("n9", {"num_images": 10**9}, "bad_num_images"),
        ("s", {"seed": -5}, "bad_seed"),
        ("w", {"width": 0}, "bad_size"),
        ("h", {"height": 10**9}, "bad_size"),
        ("r", {"recipe": "nosuch"}, "unknown_recipe"),
        ("p", {"recipe": "photo"}, None),
        ("d", {"id": "same"}, None),
        ("d2", {"id": "same"}, "duplicate_id"),
    ]
    names = ["id", "num_images", "seed", "width", "height", "recipe"]
    table = {"prompt": [p for p, _, _ in cases]} | {n: [row.get(n) for _, row, _ in cases] for n in names}
    plan, config = plan_of(write(tmp_path / "t.parquet", table), 5)
    blocks = blocks_of(plan, config)
    assert [r for block in blocks for r in control(block, "reject_reason")] == [reason for _, _, reason in cases]
    assert [b.num_rows for b in blocks] == [5, 5, 5, 2]


def test_whole_floats_are_taken_as_integers_for_pandas_sake(tmp_path: Path) -> None:
    table = {"prompt": ["a", "b", "c"], "num_images": [2.0, None, 1.5]}
    plan, config = plan_of(write(tmp_path / "t.parquet", table))
    (block,) = blocks_of(plan, config)
    assert control(block, "images") == [2, 1, None]
    assert control(block, "reject_reason") == [None, None, "bad_num_images"]


def test_a_file_that_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"prompt": ["a", "b"]})
    plan, config = plan_of(path)
    write(path, {"prompt": ["a", "b", "c"]})
    with pytest.raises(UserError, match="has changed since the plan"):
        blocks_of(plan, config)
    path.unlink()
    with pytest.raises(UserError, match="gone since the plan"):
        blocks_of(plan, config)


def broken(tmp_path: Path, kind: str) -> Path:
    """A prompt table with one thing wrong."""
    path = tmp_path / "t.parquet"
    good = {"prompt": ["a"]}
    match kind:
        case "missing":
            return path
        case "empty directory":
            return tmp_path
        case "no rows":
            write(path, {"prompt": pa.array([], pa.string())})
        case "no column":
            write(path, {"text": ["a"]})
        case "number prompts":
            write(path, {"prompt": [1, 2]})
        case "text seeds":
            write(path, {**good, "seed": ["one"]})
        case "list ids":
            write(path, {**good, "id": [["x"]]})
        case "zero bytes":
            path.write_bytes(b"")
        case "not parquet":
            path.write_bytes(b"prompt\na cat\n" * 100)
        case "truncated":
            write(path, {"prompt": ["a"] * 5000})
            path.write_bytes(path.read_bytes()[:-200])
        case "two schemas":
            write(tmp_path / "d/1.parquet", good)
            write(tmp_path / "d/2.parquet", {"prompt": ["a"], "x": [1]})
            return tmp_path / "d"
        case "glob without a match":
            return tmp_path / "*.parquet"
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "no prompt table at"),
        ("empty directory", "holds no Parquet file"),
        ("no rows", "has no rows"),
        ("no column", "set prompts.column to one of \\['text'\\]"),
        ("number prompts", "column 'prompt' .* must be a string column, it is int64"),
        ("text seeds", "column 'seed' .* must be an integer column"),
        ("list ids", "column 'id' .* must be a string or an integer"),
        ("zero bytes", "is empty"),
        ("not parquet", "no readable Parquet file"),
        ("truncated", "no readable Parquet file"),
        ("two schemas", "differ in their columns"),
        ("glob without a match", "no file matches"),
    ],
)
def test_bad_tables_are_one_clear_sentence(tmp_path: Path, kind: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        plan_of(broken(tmp_path, kind))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"), [("p.csv", "prompt\na cat\n一只猫\n"), ("p.jsonl", '{"prompt": "一只猫"}\n' * 2)]
)
def test_a_text_table_is_told_the_command_that_makes_it_parquet(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="no readable Parquet file") as caught:
        plan_of(tmp_path / name)
    _, _, command = str(caught.value).partition("make it one by python ")
    subprocess.run([sys.executable, *shlex.split(command.replace("YOURS", name))], cwd=tmp_path, check=True)
    assert plan_of(tmp_path / "prompts.parquet")[0].shards == 1


def test_a_table_given_by_a_wrong_scheme_is_a_sentence() -> None:
    with pytest.raises(UserError, match="no place that fsspec can open"):
        open_table(Prompts(uri="gopher://x/y.parquet"))
