"""The image stage where it cannot write."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.errors import JobError
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.graph import render_settings
from pipeline.source import RowReader
from pipeline.stages import GenerateSettings, GenerateStage
from pipeline.storage import Store
from pipeline.synthesize import settle
from tests import models


class FullDisk(Store):
    """A store whose disk has no room for scratch files."""

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        raise OSError(errno.ENOSPC, "No space left on device")
        yield Path()


class Nobody:
    def event(self, stage: str, kind: str) -> None: ...


def test_a_full_disk_is_a_failure_in_one_sentence_and_commits_nothing(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a red heart"]}), tmp_path / "prompts.parquet")
    overrides = [f"prompts.uri={tmp_path / 'prompts.parquet'}", f"output.uri={tmp_path / 'out'}", "expand=null",
                 f"generate.model={models.save_gan(tmp_path / 'gan')}"]  # fmt: skip
    config = load_config(SynthesizeConfig, None, overrides)
    run, _ = settle(config, Store(config.output.uri))
    columns = run.plan.columns
    settings = GenerateSettings(
        render=render_settings(config), encoding="png", quality=90, batch_rows=4, run_seed=0, read=columns.read,
        carried=columns.carried, store=FullDisk(config.output.uri), output_format="parquet",
        fingerprint=run.fingerprint,
    )  # fmt: skip
    (block,) = RowReader(run.plan.table, columns, config, frozenset()).blocks(run.plan.shard(0))
    with pytest.raises(JobError, match="cannot write shard 0: the disk is full; free space, then run again"):
        GenerateStage(settings, Nobody())(block)
    assert not list((tmp_path / "out").glob("data/*"))
