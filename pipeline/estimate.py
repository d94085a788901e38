"""What a run would cost: from rates measured in the output's earlier shards, or from a short calibration."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from actors.generator import Generator
from actors.images import ImageEncoder
from actors.render_settings import build_backend
from pipeline import columns as c
from pipeline.assemble import image_jobs, refuse
from pipeline.config import SynthesizeConfig
from pipeline.graph import expander_settings, picture_columns, render_settings
from pipeline.plan import Plan
from pipeline.run_record import Run
from pipeline.source import RowReader
from pipeline.spool import ImageSpool
from pipeline.stages import ExpandStage
from pipeline.timings import Rates

_CALIBRATION_ROWS = 16


@dataclass(frozen=True)
class Estimate:
    """Cost of the rows left. Stage hours are of one actor; ``hours`` is the clock with the config's pools."""

    rows_left: int
    measured_rows: int
    expand_hours: float
    generate_hours: float
    cpu_hours: float
    gpu_hours: float
    hours: float


class _NoBoard:
    """Stands in for the board where no Ray runs."""

    def event(self, stage: str, kind: str) -> None:
        """Nobody listens."""


def count_images(plan: Plan, config: SynthesizeConfig) -> int:
    """Images that the whole plan asks for; reads the num_images column alone, and nothing where there is none.

    Rows that the run will reject for other reasons are counted as asked.
    """
    variants = config.expand.variants if config.expand else 1
    if "num_images" not in plan.columns.honoured:
        return plan.table.rows * config.generate.images * variants
    total = 0
    for batch in plan.table.batches(["num_images"]):
        asked = pc.fill_null(pc.cast(batch["num_images"], "float64"), float(config.generate.images))
        valid = pc.and_(pc.greater_equal(asked, 1), pc.less_equal(asked, config.limits.max_images_per_prompt))
        total += int(pc.sum(pc.if_else(valid, asked, 0.0)).as_py() or 0)
    return total * variants


def calibrate(config: SynthesizeConfig, run: Run, recipes: dict[str, str]) -> Rates:
    """Makes a few rows in this process, writing nothing, to learn the rates; loads the models as an actor would."""
    plan = run.plan
    shard = plan.shard(0)
    reader = RowReader(plan.table, plan.columns, config, frozenset(recipes))
    (block,) = reader.blocks(shard)
    block = block.slice(0, _CALIBRATION_ROWS)
    rows = block.num_rows
    if config.expand is not None:
        expand = ExpandStage(
            expander_settings(config, recipes),
            config.expand.variants,
            config.seed,
            _NoBoard(),
            config.expand.first_variant,
        )
        block = expand(block)
    image = config.output.image
    generator = Generator(
        build_backend(render_settings(config)),
        ImageEncoder(image.encoding, image.quality),
        config.generate.batch_rows,
        1,
    )
    given = None
    pictures = picture_columns(config, plan.columns.honoured)
    if pictures is not None:
        given, errors = pictures.read(block)
        block = refuse(block, errors)
    sheet = image_jobs(block, config.seed, given, config.generate.candidates)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, ImageSpool(Path(scratch)) as spool:
        generator.render(sheet.jobs, spool)
    return Rates(
        shards=0,
        rows=rows,
        images=len(sheet.jobs),
        tokens=sum(block[c.TOKENS].to_pylist()),
        expand_seconds=block[c.EXPAND_SECONDS][0].as_py(),
        render_seconds=time.monotonic() - started,
        write_seconds=0.0,
    )


def estimate(rates: Rates, rows_left: int, config: SynthesizeConfig) -> Estimate:
    """The cost of ``rows_left`` at the measured rates; start-up and model loading are not in it."""
    scale = rows_left / max(1, rates.rows) / 3600
    expand_hours = rates.expand_seconds * scale
    generate_hours = (rates.render_seconds + rates.write_seconds) * scale
    generate = config.generate.actors
    cpu_hours = generate_hours * generate.cpus
    gpu_hours = generate_hours * generate.gpus
    clock = generate_hours / generate.min
    if config.expand is not None:
        actors = config.expand.actors
        cpu_hours += expand_hours * actors.cpus
        gpu_hours += expand_hours * actors.gpus
        # The stages overlap: the slower one sets the pace.
        clock = max(clock, expand_hours / actors.min)
    return Estimate(rows_left, rates.rows, expand_hours, generate_hours, cpu_hours, gpu_hours, clock)
