"""What a run would cost: from rates measured in the output's earlier shards, or from a short calibration."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow.compute as pc

from actors.generator import Generator
from actors.images import ImageEncoder
from actors.render_settings import build_backend
from pipeline import columns as c
from pipeline import cost
from pipeline.assemble import image_jobs, refuse
from pipeline.catalogue import ImageModel, LanguageModel, catalogue, gpu_named
from pipeline.config import SynthesizeConfig
from pipeline.cost_model import Bill, Fit, StageWork, bill, fit_image, fit_language
from pipeline.graph import expander_settings, picture_columns, render_settings
from pipeline.plan import Plan
from pipeline.run_record import Run
from pipeline.source import RowReader
from pipeline.spool import ImageSpool
from pipeline.stages import ExpandStage
from pipeline.timings import Rates

_CALIBRATION_ROWS = 16
M = TypeVar("M", ImageModel, LanguageModel)


@dataclass(frozen=True)
class Estimate:
    """Cost of the rows left. Stage hours are of one actor; the bill is with the config's smallest pools."""

    rows_left: int
    measured_rows: int
    expand_hours: float
    generate_hours: float
    bill: Bill


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


def by_rule(config: SynthesizeConfig, rows: int, images: int) -> Rates | None:
    """The rates of models and GPUs that the catalogue knows, before anything was measured; None where it knows less.

    The GPU is that of ``accelerator_type``; models are known by the last part of their URI.
    """
    generate, expand = config.generate, config.expand
    painter = _known(catalogue().image, generate.model)
    kind = gpu_named(generate.actors.accelerator_type or "")
    if generate.backend != "diffusers" or painter is None or kind is None:
        return None
    draws = fit_image(painter, kind[1], round(generate.actors.gpus), generate.diffusers.steps)
    writes: Fit | None = None
    if expand is not None and expand.engine != "openai":
        writer, theirs = _known(catalogue().language, expand.model), gpu_named(expand.actors.accelerator_type or "")
        writes = fit_language(writer, theirs[1], round(expand.actors.gpus)) if writer and theirs else None
        if writes is None:
            return None
    if draws is None:
        return None
    texts = rows * expand.variants if expand else 0
    return Rates(
        shards=0,
        rows=rows,
        images=images,
        tokens=0,
        expand_seconds=texts / writes.per_second if writes else 0.0,
        render_seconds=images * generate.candidates / draws.per_second,
        write_seconds=0.0,
    )


def _known(models: Sequence[M], uri: str) -> M | None:
    last = uri.partition("@")[0].rstrip("/").rpartition("/")[2].lower()
    return next((model for model in models if model.name.rpartition("/")[2].lower() == last), None)


def estimate(rates: Rates, rows_left: int, config: SynthesizeConfig) -> Estimate:
    """The cost of ``rows_left`` at the measured rates; start-up and model loading are not in it."""
    scale = rows_left / max(1, rates.rows) / 3600
    expand_hours = rates.expand_seconds * scale
    generate_hours = (rates.render_seconds + rates.write_seconds) * scale
    pools = [(generate_hours, config.generate.actors)]
    if config.expand is not None:
        pools.append((expand_hours, config.expand.actors))
    prices = cost.prices(config)
    work = bill([StageWork(hours, pool.min, pool.cpus, pool.gpus) for hours, pool in pools], prices)
    return Estimate(rows_left, rates.rows, expand_hours, generate_hours, work)
