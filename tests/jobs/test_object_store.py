"""Images go from the actor that renders them to storage: Ray's object store never holds one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from jobs.cli import main


def store_stats() -> Any:
    """Of all nodes, as ``ray memory --stats-only`` asks for them."""
    return get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address)).store_stats


def test_images_stay_out_of_rays_object_store(local_ray: None, tiny_gan: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": [f"a red heart {row}" for row in range(128)]}), tmp_path / "prompts.parquet")
    before = store_stats()
    # Shards of 64 images, more than what Ray passes on beside its store (100 kB).
    told = [f"prompts.uri={tmp_path / 'prompts.parquet'}", f"output.uri={tmp_path / 'out'}", "expand=null",
            f"generate.model={tiny_gan}", "shards.rows=64"]  # fmt: skip
    assert main(["synthesize", *told]) == 0
    after = store_stats()
    images = sum(file.stat().st_size for file in (tmp_path / "out/data").iterdir())
    assert images > 300_000
    assert after.spilled_bytes_total == before.spilled_bytes_total
    assert after.cumulative_created_bytes - before.cumulative_created_bytes < images / 4
