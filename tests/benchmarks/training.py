"""What Ray Train and DDP cost: samples/s of train-gan beside the same steps in a bare loop, and 2 workers beside 1.

The adversarial phase at 64x64 with the default networks on random pictures. Bare loop, one worker with two threads and
two workers with one thread each take turns; the first steps of each are left out.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from ray.data.block import BlockAccessor

from actors.training_batch import TrainingBatch
from actors.training_loop import PhasePlan
from pipeline.captioned import open_captioned
from pipeline.config_file import load_config
from pipeline.gan_config import TrainGanConfig
from pipeline.train_gan import GanTask, train_gan
from tests.benchmarks.harness import Bench, Comparison, Contest
from tests.shapes import save_encoder

STEPS, LEFT_OUT = 32, 8


def training(bench: Bench) -> Contest:
    """Samples/s of the adversarial phase."""
    # Ray's workers are nice, which costs nothing but on a machine that others use too; the loop is not nice.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so
    table = _table(bench.scratch / "noise.parquet")
    encoder = save_encoder(bench.scratch / "encoder")
    outputs = (bench.scratch / f"run-{number}" for number in itertools.count())

    def side(workers: int, cpus: int) -> dict[str, float]:
        output = next(outputs)
        config = _config(table, encoder, output, max(1, workers), cpus)
        return {"samples/s": _bare(config) if workers == 0 else _with_ray(config, output)}

    return Contest(
        {
            "1 worker": lambda: side(1, 2),
            "bare loop": lambda: side(0, 2),
            "2 workers of 1 thread": lambda: side(2, 1),
        },
        [
            Comparison("1 worker", "bare loop", "samples/s", at_least=0.95),
            Comparison("2 workers of 1 thread", "1 worker", "samples/s", at_least=0.85),
        ],
        turns=3,
        warm=False,
    )


def _table(path: Path) -> Path:
    rng, rows = np.random.default_rng(0), []
    for number in range(512):
        sink = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(sink, "PNG")
        rows.append({"image": {"bytes": sink.getvalue(), "path": ""}, "caption": f"thing {number}"})
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def _config(table: Path, encoder: Path, output: Path, workers: int, cpus: int) -> TrainGanConfig:
    told = [
        f"data.uri={table}", f"encoder={encoder}", f"output.uri={output}", "autoencoder.steps=0", "regression.steps=0",
        f"adversarial.steps={STEPS}", "adversarial.lazy=4", f"workers.count={workers}", f"workers.cpus={cpus}",
        f"cadence.log={LEFT_OUT}", "cadence.checkpoint=1000", "cadence.watch=1000", "watch.pictures=0",
        "watch.each=1", "watch.sheet=[thing 1]",
    ]  # fmt: skip
    return load_config(TrainGanConfig, None, told).settled()


def _with_ray(config: TrainGanConfig, output: Path) -> float:
    train_gan(config, fresh=False, address=None, quiet=True, debug=False)
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    kept = [line for line in lines if line["step"] > LEFT_OUT]
    return (STEPS - LEFT_OUT) * config.adversarial.batch / sum(line["seconds"] for line in kept)


def _bare(config: TrainGanConfig) -> float:
    """The same trainer over the same batches, read one after the other beside it, without Ray."""
    torch.set_num_threads(int(config.workers.cpus))
    table = open_captioned(config.data.uri)
    task = GanTask(config, None, table, None)  # type: ignore[arg-type]
    trainer = task.build(torch.device("cpu"))
    trainer.begin("adversarial")
    plan = PhasePlan("adversarial", STEPS, config.adversarial.batch)
    reader = task.reader(plan)
    begun = 0.0
    for step, block in enumerate(reader.blocks(0, STEPS, range(reader.order.lanes))):
        if step == LEFT_OUT:
            begun = time.monotonic()
        arrays = BlockAccessor.for_block(block).to_numpy()
        trainer.step("adversarial", step, TrainingBatch(**{name: torch.as_tensor(v) for name, v in arrays.items()}))
    return (STEPS - LEFT_OUT) * config.adversarial.batch / (time.monotonic() - begun)
