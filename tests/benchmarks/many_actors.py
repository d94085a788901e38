"""One image actor and two on two cores; and many actors that Ray takes for GPUs, to find what the driver can feed.

    python -m tests.benchmarks.many_actors 8 32

prints for each number of simulated actors how many of the shards a second that they could make came out, and the CPU
time a shard of the driver and of Ray's own processes (raylet, GCS). A simulated actor sleeps where a GPU would render,
and commits a real shard with one small row; the graph, the reading, the object store and the commit path are real. Its
GPU is a number that Ray is told. docs/performance.md has the formula that these figures go into.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import columns as c
from pipeline.commit import ShardCommitter, ShardResult
from pipeline.storage import Store
from tests.benchmarks.harness import Bench, Comparison, Contest
from tests.benchmarks.writing import output_rows

_SECONDS = 4.0  # that a simulated actor renders at a shard
_SHARDS_EACH = 6


def workers(bench: Bench) -> Contest:
    """Images/s of the shipped GAN, without LLM: two actors of one core each beside one of one core."""
    import ray

    from pipeline.config import SynthesizeConfig
    from pipeline.config_file import load_config
    from pipeline.synthesize import synthesize

    rows, shards = (2, 3) if bench.quick else (32, 13)
    table = bench.scratch / "prompts.parquet"
    prompts = list(itertools.islice(itertools.cycle(bench.prompts), shards * rows))
    pq.write_table(pa.table({"prompt": prompts}), table)
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=256 << 20, log_to_driver=False)
    bench.cleanup.callback(ray.shutdown)
    outputs = (bench.scratch / f"out-{number}" for number in itertools.count())

    def side(actors: int) -> dict[str, float]:
        output = next(outputs)
        told = [f"prompts.uri={table}", f"output.uri={output}", f"shards.rows={rows}", "expand=null",
                f"generate.actors={{min: {actors}, max: {actors}, cpus: 1}}"]  # fmt: skip
        synthesize(load_config(SynthesizeConfig, None, told), quiet=True)
        times = sorted(path.stat().st_mtime for path in output.glob("_run/shards/*.json"))
        # From the first shard of the last actor to start: until then not all of them were at work.
        return {"images/s": rows * (len(times) - actors) / (times[-1] - times[actors - 1])}

    return Contest(
        {"two actors": lambda: side(2), "one actor": lambda: side(1)},
        [Comparison("two actors", "one actor", "images/s")],
        turns=3,
        warm=False,
    )


class SimulatedStage:
    """Stands in the graph for `pipeline.stages.GenerateStage`; loads no model library, so that hundreds fit."""

    def __init__(self, told: tuple[Store, str], *_: Any) -> None:
        self._committer = ShardCommitter(told[0], "parquet", told[1])

    def __call__(self, block: pa.Table) -> pa.Table:
        shard = block[c.SHARD][0].as_py()
        time.sleep(_SECONDS)
        table, images, no_rejects = output_rows(1, 2000)
        self._committer.commit(ShardResult(shard, block.num_rows, table, images, no_rejects, {"tokens": 0}))
        return pa.table(
            {"shard": [shard], "rows": [block.num_rows], "images": [1], "rejected": [0], "adopted": [False]}
        )


def simulate(actors: int, scratch: Path) -> dict[str, float]:
    """A run with so many simulated GPU actors; see the module."""
    import ray

    from pipeline import graph
    from pipeline.config import SynthesizeConfig
    from pipeline.config_file import load_config
    from pipeline.run_record import claim
    from pipeline.synthesize import open_store, settle
    from tests.models import save_gan

    shards = _SHARDS_EACH * actors
    pq.write_table(pa.table({"prompt": [f"a red heart {row}" for row in range(64 * shards)]}), scratch / "p.parquet")
    told = [
        f"prompts.uri={scratch / 'p.parquet'}", f"output.uri={scratch / 'out'}", "expand=null", "shards.rows=64",
        f"generate.model={save_gan(scratch / 'model')}",
        f"generate.actors={{min: {actors}, max: {actors}, cpus: 0.01, gpus: 1}}",
    ]  # fmt: skip
    config = load_config(SynthesizeConfig, None, told)
    store = open_store(config)
    run = claim(store, settle(config, store)[0])
    ray.init(address="local", num_cpus=2, num_gpus=actors, include_dashboard=False, log_to_driver=False,
             object_store_memory=256 << 20)  # fmt: skip
    graph.GenerateStage = SimulatedStage  # type: ignore[assignment, misc]
    graph.generate_settings = lambda config, run, store: (store, run.fingerprint)  # type: ignore[assignment, return-value]
    spent: list[tuple[float, float, float]] = []
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(spent, stop), daemon=True)
    watcher.start()
    try:
        for _ in graph.outcomes(config, run, range(run.plan.shards), {}, store, _NoBoard()):  # type: ignore[arg-type]
            pass
    finally:
        stop.set()
        watcher.join()
        ray.shutdown()
    times = sorted(path.stat().st_mtime for path in (scratch / "out").glob("_run/shards/*.json"))
    # Once every actor has made its first shard, all are at work; the last round is left out, for some have none left.
    begin, end = times[actors], times[-actors]
    made = len(times) - 2 * actors
    before, after = (min(spent, key=lambda sample: abs(sample[0] - when)) for when in (begin, end))
    return {
        "actors": actors,
        "shards/s, of what the actors could make": made / (end - begin) * _SECONDS / actors,
        "driver CPU ms/shard": 1000 * (after[1] - before[1]) / made,
        "Ray's own CPU ms/shard": 1000 * (after[2] - before[2]) / made,
    }


class _NoBoard:
    """Takes the stages' events and forgets them."""

    def event(self, stage: str, what: str) -> None:
        pass


def _watch(spent: list[tuple[float, float, float]], stop: threading.Event) -> None:
    """(time, CPU seconds of this process, of raylet and GCS), about once a second."""
    own = psutil.Process()
    while not stop.wait(1.0):
        others = 0.0
        for process in own.children():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                others += times.user + times.system
        spent.append((time.time(), time.process_time(), others))


if __name__ == "__main__":
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so
    for count in map(int, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as directory:
            print(simulate(count, Path(directory)), flush=True)
