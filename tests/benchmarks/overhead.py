"""What the pipeline costs: `promptmill synthesize` end to end, and the same models in one loop that knows no Ray.

The loop is what one would write for one machine: a shard's prompts are described, rendered, encoded, and written by
`pyarrow`, then comes the next shard. Same classes, threads and batch sizes. Both are timed from the end of their first
shard to the end of their last, so neither start-up nor warming is in it.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from actors.backend_gan import GanBackend
from actors.contracts import ImageJob, TextJob
from actors.device import use_resources
from actors.engine_transformers import TransformersEngine
from actors.expander import Expander
from actors.images import ImageEncoder
from actors.model_uri import resolve_model
from actors.recipes import parse_recipe
from actors.seeds import derive_seed
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.graph import expander_settings, recipe_texts
from pipeline.synthesize import synthesize
from tests.benchmarks.cpu_time import TreeClock
from tests.benchmarks.harness import Bench, Comparison, Contest

_SHARDS, _ROWS = 5, 64


def overhead(bench: Bench) -> Contest:
    """Images/s, warm."""
    shards, rows = (2, 2) if bench.quick else (_SHARDS, _ROWS)
    prompts = list(itertools.islice(itertools.cycle(bench.prompts), shards * rows))
    table = bench.scratch / "prompts.parquet"
    pq.write_table(pa.table({"prompt": prompts}), table)
    told = [f"prompts.uri={table}", f"shards.rows={rows}", "expand.actors={cpus: 1.5}", "generate.actors={cpus: 0.5}"]
    # Ray's workers are nice, which costs nothing but on a machine that others use too; the loop is not nice.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=256 << 20, log_to_driver=False)
    bench.cleanup.callback(ray.shutdown)
    outputs = (bench.scratch / f"out-{number}" for number in itertools.count())

    def ours() -> dict[str, float]:
        output = next(outputs)
        begun = time.time()
        with TreeClock() as clock:
            synthesize(load_config(SynthesizeConfig, None, [*told, f"output.uri={output}"]), quiet=True)
        ended = sorted(path.stat().st_mtime for path in output.glob("_run/shards/*.json"))
        return {
            "images/s": rows * (shards - 1) / (ended[-1] - ended[0]),
            "images/CPU s": rows * (shards - 1) / clock.between(ended[0], ended[-1]),
            "start-up seconds": ended[0] - begun,
        }

    loop = _Loop(load_config(SynthesizeConfig, None, told))

    def bare() -> dict[str, float]:
        output, ended, spent = next(outputs), [], []
        output.mkdir()
        for shard in range(shards):
            loop.make(shard, prompts[shard * rows : (shard + 1) * rows], output)
            ended.append(time.time())
            spent.append(time.process_time())
        made = rows * (shards - 1)
        return {"images/s": made / (ended[-1] - ended[0]), "images/CPU s": made / (spent[-1] - spent[0])}

    return Contest(
        {"promptmill synthesize": ours, "bare loop": bare},
        [Comparison("promptmill synthesize", "bare loop", "images/s", at_least=0.95)],
        turns=3,
        warm=False,
    )


class _Loop:
    """The models, loaded once, and one shard's work."""

    def __init__(self, config: SynthesizeConfig) -> None:
        assert config.expand is not None
        told, device = expander_settings(config, recipe_texts(config, False, [])), use_resources(2, 0)
        # All in this thread, where a plain loop is fastest: see `actors.own_thread`.
        engine = TransformersEngine(resolve_model(told.model), device, dtype=told.dtype, batch_rows=told.batch_rows)
        recipes = {name: parse_recipe(text) for name, text in told.recipes.items()}
        self._expander = Expander(engine, recipes, engine.call_rows, told.max_new_tokens)
        self._backend = GanBackend(resolve_model(config.generate.model).path, device)
        self._encoder = ImageEncoder("png", 90)
        self._batch = config.generate.batch_rows

    def make(self, shard: int, prompts: list[str], output: Path) -> None:
        texts = [TextJob(prompt, "faithful", 0, derive_seed(0, "text", prompt)) for prompt in prompts]
        made = self._expander.expand(texts)
        jobs = [
            ImageJob(f"{shard}-{row}", one.text, None, derive_seed(0, shard, row), None, None)
            for row, one in enumerate(made)
        ]
        parts = [jobs[start : start + self._batch] for start in range(0, len(jobs), self._batch)]
        pictures = [picture for part in parts for picture in self._backend.render(part)]
        files = [self._encoder.encode(picture, job.image_id).data for picture, job in zip(pictures, jobs, strict=True)]
        rows = {
            "id": [job.image_id for job in jobs],
            "prompt": prompts,
            "description": [one.text for one in made],
            "image": [{"bytes": data, "path": f"{number}.png"} for number, data in enumerate(files)],
        }
        pq.write_table(pa.table(rows), output / f"{shard:06d}.parquet")
