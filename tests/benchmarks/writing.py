"""Shards to disk and to S3 beside the barest way to put the same bytes there; one row found among ten thousand."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import columns as c
from pipeline.commit import ShardCommitter, ShardResult, committed_shards
from pipeline.formats.base import ShardImages
from pipeline.id_notes import find_image, id_note
from pipeline.storage import Store
from pipeline.timings import put_timing
from tests.benchmarks.harness import Bench, Comparison, Contest, rate, timed

_IMAGE_BYTES = 100_000  # a JPEG or PNG of 256x256 to 512x512
_THREADS = 2  # shards that one generator actor has in hand
_FINGERPRINT = "0" * 64


def writing(bench: Bench) -> Contest:
    """Bytes/s of a committed shard on local disk; the baseline is one `write_table` of the same rows, with fsync."""
    rows = 16 if bench.quick else 512
    table, images = _rows(rows)
    whole = _with_images(table, images)
    size = rows * _IMAGE_BYTES

    def committed(place: Path) -> None:
        _commit(Store(str(place)), [0], table, images)

    def plain(place: Path) -> None:
        pq.write_table(whole, place / "data.parquet", compression="NONE")

    def synced(place: Path) -> None:
        plain(place)
        with (place / "data.parquet").open("rb+") as stream:
            os.fsync(stream.fileno())

    def side(work: Callable[[Path], None]) -> dict[str, float]:
        place = bench.scratch / "place"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return _bytes(size, lambda: work(place))

    return Contest(
        {
            "shard committed": lambda: side(committed),
            "write_table and fsync": lambda: side(synced),
            "write_table": lambda: side(plain),
        },
        [
            Comparison("shard committed", "write_table and fsync", "bytes/s", at_least=0.9),
            Comparison("shard committed", "write_table", "bytes/s"),
        ],
        turns=9,
    )


def s3(bench: Bench) -> Contest:
    """Bytes/s of shards committed to a real S3 server here; the baseline uploads the same objects, same threads."""
    path = Path(__file__).parents[2] / "infra/object-store/swift_s3.py"
    spec = importlib.util.spec_from_file_location("swift_s3", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = bench.cleanup.enter_context(module.SwiftS3())
    os.environ.update(server.environ(), NO_PROXY="127.0.0.1,localhost", no_proxy="127.0.0.1,localhost")
    shards, rows = (2, 4) if bench.quick else (8, 64)
    table, images = _rows(rows)
    size = shards * rows * _IMAGE_BYTES
    bucket = f"bench-{secrets.token_hex(4)}"
    server.create_bucket(bucket)
    model = Store(str(bench.scratch / "model"))
    _commit(model, range(shards), table, images)
    objects = {
        str(file.relative_to(bench.scratch / "model")): file.read_bytes()
        for part in ("data", "_run/shards", "_run/timings")
        for file in sorted((bench.scratch / "model" / part).iterdir())
    }

    def ours() -> None:
        _commit(Store(f"s3://{bucket}/{secrets.token_hex(6)}"), range(shards), table, images)

    def bare(**condition: str) -> None:
        store = Store(f"s3://{bucket}/{secrets.token_hex(6)}")
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda name: store.fs.pipe_file(store.path(name), objects[name], **condition), objects))

    return Contest(
        {
            "shards committed": lambda: _bytes(size, ours),
            "bare upload": lambda: _bytes(size, bare),
            "bare upload, if absent": lambda: _bytes(size, lambda: bare(mode="create")),
        },
        [
            Comparison("shards committed", "bare upload", "bytes/s", at_least=0.9),
            Comparison("shards committed", "bare upload, if absent", "bytes/s"),
        ],
        turns=5,
    )


def find_row(bench: Bench) -> Contest:
    """Seconds to find a row by its id: among ten thousand rows in many shards, and in one shard alone."""
    shards, rows = (4, 8) if bench.quick else (100, 100)
    table, images = _rows(rows, 2000)
    stores = {"one": Store(str(bench.scratch / "one")), "all": Store(str(bench.scratch / "all"))}
    records = {}
    for name, count in (("one", 1), ("all", shards)):
        _commit(stores[name], range(count), table, images)
        records[name] = count

    def side(name: str) -> dict[str, float]:
        store, wanted = stores[name], f"{records[name] - 1:06d}-{rows - 1:06d}"

        def work() -> None:
            assert find_image(store, "parquet", sorted(committed_shards(store)), wanted) is not None

        return timed(work)

    return Contest(
        {"of all shards": lambda: side("all"), "of one shard": lambda: side("one")},
        [Comparison("of all shards", "of one shard", "seconds", at_most=3)],
        turns=9,
    )


def output_rows(count: int, image_bytes: int) -> tuple[pa.Table, ShardImages, pa.Table]:
    """Rows of a shard, their images (random bytes), and no rejects."""
    table, images = _rows(count, image_bytes)
    return table, _shard_images(images), _no_rejects()


def _no_rejects() -> pa.Table:
    return pa.table({field.name: pa.array([], field.type) for field in c.REJECT_FIELDS})


def _rows(count: int, image_bytes: int = _IMAGE_BYTES) -> tuple[pa.Table, list[bytes]]:
    rng = np.random.default_rng(0)
    images = [rng.bytes(image_bytes) for _ in range(count)]
    values = {
        "id": [f"{n:06d}" for n in range(count)],
        "prompt_id": [f"p{n}" for n in range(count)],
        "prompt": [f"a cat on the beach, number {n}" for n in range(count)],
        "description": [f"A cat on the beach, its fur wet, number {n}." for n in range(count)],
        "description_status": ["accepted"] * count,
        "variant": [0] * count,
        "image_index": [0] * count,
        "seed": list(range(count)),
        "width": [256] * count,
        "height": [256] * count,
        "scores": [{"similarity": None}] * count,
    }
    fields = [field for field in c.OUTPUT_FIELDS if field.name != "image"]
    arrays = [pa.array(values[field.name], field.type) for field in fields]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields)), images


def _shard_images(images: list[bytes]) -> ShardImages:
    return ShardImages(lambda row: images[row], "png", sum(map(len, images)))


def _with_images(table: pa.Table, images: list[bytes]) -> pa.Table:
    cells = pa.array([{"bytes": data, "path": "x.png"} for data in images], c.IMAGE)
    return table.append_column(pa.field("image", c.IMAGE), cells)


def _commit(store: Store, shards: range | list[int], table: pa.Table, images: list[bytes]) -> None:
    committer = ShardCommitter(store, "parquet", _FINGERPRINT)

    def one(shard: int) -> None:
        ids = pa.array([f"{shard:06d}-{row}" for row in table["id"].to_pylist()], pa.string())
        committer.commit(
            ShardResult(
                shard, table.num_rows, table.set_column(0, "id", ids), _shard_images(images),
                _no_rejects(), {"descriptions": {"accepted": table.num_rows}, "tokens": 0},
            )
        )  # fmt: skip
        put_timing(store, shard, id_note(ids.to_pylist()))

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(one, shards))


def _bytes(size: int, work: Callable[[], object]) -> dict[str, float]:
    def counted() -> float:
        work()
        return size

    return rate("bytes", counted)
