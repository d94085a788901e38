"""What a run writes loads in the readers of the field, with the real libraries: shards made without Ray or models."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.describe import describe_again
from pipeline.formats import FORMATS, parquet
from pipeline.formats.base import ShardImages
from pipeline.hub_features import parquet_features
from pipeline.read_output import OutputRow, find_row, sample_rows
from pipeline.storage import Store
from tests.pipeline.outputs import CARRIED, make_output, output_table, png

COUNTS = [0, 3, 0, 5]
"""Images of the shards: the first and one in between have none."""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for output_format in FORMATS:
        made[output_format] = tmp_path_factory.mktemp(output_format)
        # `datasets` reads tars and image folders through Python integers, which it makes int64 whatever the type is.
        carried = CARRIED if output_format == "parquet" else CARRIED.drop_columns(["big"])
        store, _ = make_output(made[output_format], output_format, COUNTS, carried)
        describe_again(store)
    return made


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The library with its cache in a place of the test's own, and without a network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("huggingface")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        import datasets

        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        datasets.disable_progress_bars()
        yield datasets


@pytest.fixture(scope="module")
def ray_data(local_ray: None) -> Any:
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data


def load(datasets: Any, path: Path) -> Any:
    return datasets.load_dataset(str(path), split="train")


def expected() -> pa.Table:
    return pa.concat_tables(output_table(shard, count, CARRIED) for shard, count in enumerate(COUNTS) if count)


def test_parquet_loads_in_datasets_with_decoded_images_and_all_types(datasets: Any, outputs: dict[str, Path]) -> None:
    loaded = load(datasets, outputs["parquet"])
    assert loaded.num_rows == sum(COUNTS)
    assert isinstance(loaded[0]["image"], Image.Image)
    assert loaded[4]["image"].getpixel((0, 0)) == (151, 80, 200)
    assert loaded.features["image"] == datasets.Image()
    assert loaded.with_format("arrow")[:]["seen"].type == pa.timestamp("us", tz="Europe/Berlin")
    for name in CARRIED.schema.names:
        assert loaded[:][name] == expected()[name].to_pylist(), name


def test_imagefolder_form_loads_in_datasets(datasets: Any, outputs: dict[str, Path]) -> None:
    loaded = load(datasets, outputs["files"])
    assert loaded.num_rows == sum(COUNTS)
    rows = {row["id"]: row for row in loaded}
    assert rows["p3-1-v0-0"]["image"].getpixel((0, 0)) == (151, 80, 200)
    assert "file_name" not in loaded.features
    names = [name for name in CARRIED.schema.names if name != "big"]
    for row in expected().to_pylist():
        assert {name: rows[row["id"]][name] for name in names} == {name: row[name] for name in names}


def test_webdataset_form_loads_in_datasets_though_its_first_shard_is_empty(
    datasets: Any, outputs: dict[str, Path]
) -> None:
    loaded = load(datasets, outputs["webdataset"])
    assert loaded.num_rows == sum(COUNTS)
    assert loaded[4]["png"].getpixel((0, 0)) == (151, 80, 200)
    assert loaded[0]["json"]["prompt"] == "a cat 猫"
    assert loaded.features["json"]["scores"]["similarity"] == datasets.Value("float64")


@pytest.mark.parametrize("output_format", list(FORMATS))
def test_the_formats_stream_in_datasets(datasets: Any, outputs: dict[str, Path], output_format: str) -> None:
    stream = datasets.load_dataset(str(outputs[output_format]), split="train", streaming=True)
    assert sum(1 for _ in stream) == sum(COUNTS)


def test_the_card_names_the_features_as_datasets_would(datasets: Any) -> None:
    extra = pa.schema(
        [
            ("view", pa.string_view()),
            ("fixed", pa.list_(pa.float32(), 3)),
            ("large", pa.large_list(pa.struct([("a", pa.float16())]))),
            ("deep", pa.list_(pa.list_(pa.int8()))),
            ("clock", pa.time64("us")),
            ("short_clock", pa.time32("ms")),
            ("span", pa.duration("ns")),
            ("digest", pa.binary(16)),
            ("wide", pa.decimal256(50, 3)),
            ("date64", pa.date64()),
        ]
    )
    for schema in (CARRIED.schema, extra):
        assert parquet_features(schema) == datasets.Features.from_arrow_schema(schema)._to_yaml_list()
    assert parquet_features(pa.schema([("m", pa.map_(pa.string(), pa.int8()))])) is None


@pytest.mark.parametrize(("output_format", "folder"), [("parquet", "data"), ("files", "data")])
def test_ray_reads_parquet(ray_data: Any, outputs: dict[str, Path], output_format: str, folder: str) -> None:
    rows = ray_data.read_parquet(str(outputs[output_format] / folder), file_extensions=["parquet"])
    found = sorted(rows.take_all(), key=lambda row: row["id"])
    assert [row["id"] for row in found] == sorted(expected()["id"].to_pylist())
    if output_format == "parquet":
        assert found[4]["image"]["bytes"] == png(151)


@pytest.mark.parametrize(
    ("output_format", "glob"), [("parquet", "data/*.parquet"), ("files", "data/*/metadata.parquet")]
)
def test_duckdb_reads_parquet(outputs: dict[str, Path], output_format: str, glob: str) -> None:
    where = outputs[output_format] / glob
    with duckdb.connect(config={"threads": 1}) as connection:
        row = connection.execute(
            f"select count(*), min(prompt), max(price), count(distinct kind), sum(len(tags)) from '{where}'"
        ).fetchone()
    want = expected()
    assert row is not None
    assert row[:2] == (sum(COUNTS), "a cat 猫")
    assert row[2] == max(value for value in want["price"].to_pylist() if value is not None)
    assert row[3:] == (2, sum(len(value) for value in want["tags"].to_pylist() if value is not None))


@pytest.mark.parametrize("output_format", list(FORMATS))
def test_what_the_card_says_about_loading_works_as_it_stands(
    datasets: Any, ray_data: Any, outputs: dict[str, Path], output_format: str
) -> None:
    card = (outputs[output_format] / "README.md").read_text().replace("DIR", str(outputs[output_format]))
    blocks = re.findall(r"```(python|sql)\n(.*?)```", card, re.DOTALL)
    assert len(blocks) >= 2
    for language, text in blocks:
        if language == "python":
            found: dict[str, Any] = {}
            exec(text, found)
            assert "rows" not in found or found["rows"].count() == sum(COUNTS)
        else:
            with duckdb.connect(config={"threads": 1}) as connection:
                assert connection.execute(text).fetchall() == [("accepted", sum(COUNTS))]


def test_webdataset_reads_tars_and_passes_over_shards_without_images(outputs: dict[str, Path]) -> None:
    import webdataset

    urls = sorted(str(path) for path in (outputs["webdataset"] / "data").glob("*.tar"))
    assert len(urls) == len(COUNTS)
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [sample["json"]["id"] for sample in samples] == expected()["id"].to_pylist()
    assert samples[4]["png"].getpixel((0, 0)) == (151, 80, 200)
    row = samples[0]["json"]
    assert (row["price"], row["seen"][:10], row["raw"]) == (
        "1.50",
        "2024-02-29",
        base64.b64encode(b"\x00\xff").decode(),
    )


@pytest.mark.parametrize("output_format", list(FORMATS))
def test_columns_keep_their_arrow_types(outputs: dict[str, Path], output_format: str) -> None:
    made, store = FORMATS[output_format](), Store(str(outputs[output_format]))
    for shard in range(len(COUNTS)):
        schema = made.read_schema(store, made.data_name(shard))
        assert schema is not None
        carried = [field for field in CARRIED.schema if field.name in schema.names]
        assert [schema.field(field.name) for field in carried] == carried
        assert len(carried) >= len(CARRIED.schema) - 1
    if output_format != "webdataset":
        table = pq.read_table(outputs[output_format] / made.data_name(3))
        names = [field.name for field in carried]
        assert table.select(names).equals(output_table(3, 5, CARRIED).select(names))


def test_tar_rows_are_strict_json_whatever_the_numbers(tmp_path: Path) -> None:
    carried = pa.table({"x": pa.array([float("nan"), float("inf"), 1.5])})
    store, records = make_output(tmp_path, "webdataset", [3], carried)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    import tarfile

    with tarfile.open(tmp_path / records[0]["data"]["name"]) as tar:
        rows = [tar.extractfile(member).read() for member in tar if member.name.endswith(".json")]  # type: ignore[union-attr]
    assert [json.loads(row, parse_constant=refuse)["x"] for row in rows] == [None, None, 1.5]
    assert store.size("data/shard-000000.tar")


@pytest.mark.parametrize("output_format", list(FORMATS))
def test_rows_are_found_by_id_and_come_with_their_stored_bytes(tmp_path: Path, output_format: str) -> None:
    store, records = make_output(tmp_path, output_format, [2, 0, 130], CARRIED)
    row = find_row(store, output_format, records, "p2-120-v0-0")
    assert row is not None
    assert row.image == png(2 * 50 + 120)
    assert row.values["description"] == "a description of 2/120"
    assert "image" not in row.values
    assert "file_name" not in row.values
    assert find_row(store, output_format, records, "p9-0-v0-0") is None


@pytest.mark.parametrize("output_format", list(FORMATS))
@pytest.mark.parametrize("counts", [[2, 0, 130, 1], [1] * 40, [0, 0], [4]])
def test_a_sample_is_spread_out_and_no_row_comes_twice(tmp_path: Path, output_format: str, counts: list[int]) -> None:
    store, records = make_output(tmp_path, output_format, counts)
    found: list[OutputRow] = sample_rows(store, output_format, records, 12)
    ids = [row.values["id"] for row in found]
    assert len(set(ids)) == len(ids) == min(12, sum(counts))
    assert len({row.shard for row in found}) == min(12, sum(1 for count in counts if count))
    for row in found:
        assert row.image == png(row.shard * 50 + int(row.values["id"].split("-")[1]))


def test_more_images_than_one_arrow_array_holds_give_the_same_file(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, pictures = output_table(0, 3), ShardImages(png, "png")

    def written() -> pa.Buffer:
        sink = pa.BufferOutputStream()
        FORMATS["parquet"]().build(sink, rows, pictures, {"shard": 0}, [])
        return sink.getvalue()

    whole = written()
    monkeypatch.setattr(parquet, "_OFFSET_LIMIT", 10)  # Two gigabytes as they are, too much for a test.
    assert written() == whole
