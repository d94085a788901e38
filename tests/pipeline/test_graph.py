"""What the graph asks of Ray Data."""

from __future__ import annotations

import pyarrow as pa
import pytest
import ray

from pipeline.config_running import Actors
from pipeline.graph import pool, whole_blocks


class Count:
    def __call__(self, block: pa.Table) -> pa.Table:
        return pa.table({"rows": [block.num_rows]})


@pytest.mark.parametrize("gpus", [0, 0.5])
def test_a_stage_gets_whole_blocks_on_gpus_too(local_ray: None, gpus: float) -> None:
    dataset = ray.data.from_blocks([pa.table({"n": range(rows)}) for rows in (5, 3)])
    made = whole_blocks(dataset, Count, (), pool(Actors(cpus=0.1, gpus=gpus), threads=1))
    if not gpus:  # there is none here: that the graph can be built is all that is seen
        assert sorted(row["rows"] for row in made.iter_rows()) == [3, 5]
