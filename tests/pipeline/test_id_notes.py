"""An image is found by its id without reading the shards that do not hold it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.formats import FORMATS
from pipeline.id_notes import find_image, id_note
from pipeline.storage import Store
from pipeline.timings import put_timing, read_rates
from tests.pipeline.outputs import make_output, png

_TIMES = {"rows": 3, "images": 3, "tokens": 0, "expand_seconds": 0.0, "render_seconds": 1.0, "write_seconds": 1.0}


def noted(store: Store, shard: int, rows: int) -> None:
    put_timing(store, shard, id_note([f"p{shard}-{row}-v0-0" for row in range(rows)]), **_TIMES)


@pytest.mark.parametrize("output_format", list(FORMATS))
def test_one_shard_is_touched(tmp_path: Path, output_format: str) -> None:
    store, records = make_output(tmp_path, output_format, [3] * 6)
    for shard in range(6):
        noted(store, shard, 3)
    for record in records:
        if record["shard"] != 4:
            (tmp_path / record["data"]["name"]).unlink()  # whoever opened it would fail
    row = find_image(store, output_format, range(6), "p4-2-v0-0")
    assert row is not None
    assert row.image == png(4 * 50 + 2)
    rates = read_rates(store)
    assert rates is not None
    assert rates.images == 18


def test_a_missing_or_wrong_note_costs_time_alone(tmp_path: Path) -> None:
    store, _ = make_output(tmp_path, "parquet", [3] * 4)
    noted(store, 0, 3)
    put_timing(store, 1, id_note(["another"]), **_TIMES)
    put_timing(store, 2, **_TIMES)
    for image_id in ("p0-1-v0-0", "p1-1-v0-0", "p2-1-v0-0", "p3-1-v0-0"):
        row = find_image(store, "parquet", range(4), image_id)
        assert row is not None
        assert row.values["id"] == image_id
    assert find_image(store, "parquet", range(4), "another") is None
