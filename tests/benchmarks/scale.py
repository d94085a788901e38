"""Does a shard cost the same in a long run as in a short one? Time a shard and memory (driver, actor), by shards.

A trivial generator: the real GAN classes with a few thousand weights, one row a shard, no LLM. Each run is a process of
its own with a local Ray; the time a shard is taken between the first and the last commit record, so start-up is not in
it. Planning and resuming are compared with the barest reading of what they rest on.
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.cpu_time import TreeClock
from tests.benchmarks.harness import Bench, Comparison, Contest, limit, timed

if TYPE_CHECKING:
    from pipeline.config import SynthesizeConfig

_SMALL, _LARGE = 50, 1000
_PLAN_ROWS = 1_000_000
_MEASURES = {"seconds/shard": 1.1, "driver CPU seconds/shard": 1.1, "driver bytes": 1.1, "actor bytes": 1.1}
_RECORDS = 10_000


def scale(bench: Bench) -> Contest:
    """A run of 1,000 shards beside one of 50."""
    return _scale(_LARGE, _SMALL, turns=2)


def scale_10000(bench: Bench) -> Contest:
    """A run of 10,000 shards beside one of 50; once, for it takes a while."""
    return _scale(10_000, _SMALL, turns=1)


def _scale(large: int, small: int, turns: int) -> Contest:
    sides = {f"{count:,} shards": (lambda count=count: _in_a_process(count)) for count in (large, small)}
    first, second = sides
    return Contest(
        sides,
        [Comparison(first, second, measure, at_most=most) for measure, most in _MEASURES.items()],
        turns,
        warm=False,
    )


def plan(bench: Bench) -> Contest:
    """Seconds to settle a run over a million rows (columns, plan, fingerprint), beside one bare reading of it."""
    from pipeline.config import SynthesizeConfig
    from pipeline.config_file import load_config
    from pipeline.synthesize import open_store, settle

    rows = 1000 if bench.quick else _PLAN_ROWS
    config = load_config(SynthesizeConfig, None, [*_overrides(bench.scratch, rows), "shards.rows=64"])

    def ours() -> None:
        run, _ = settle(config, open_store(config))
        assert sum(run.plan.shard(index).rows for index in range(run.plan.shards)) == rows

    return Contest(
        {
            "plan": lambda: timed(ours),
            "read_table": lambda: timed(lambda: pq.read_table(bench.scratch / "p.parquet")),
            "ten seconds": limit(10),
        },
        [Comparison("plan", "ten seconds", "seconds", at_most=1), Comparison("plan", "read_table", "seconds")],
    )


def resume(bench: Bench) -> Contest:
    """Seconds that a second start of a finished run of 10,000 shards takes: nothing is made, all records are read."""
    from pipeline.config import SynthesizeConfig
    from pipeline.config_file import load_config
    from pipeline.synthesize import synthesize

    config = load_config(SynthesizeConfig, None, _overrides(bench.scratch, 3 if bench.quick else _RECORDS))
    _pretend(config)

    def ours() -> None:
        assert synthesize(config, quiet=True).made_shards == 0

    def bare() -> None:
        for path in sorted((bench.scratch / "out/_run/shards").iterdir()):
            json.loads(path.read_bytes())

    return Contest(
        {"second start": lambda: timed(ours), "records read bare": lambda: timed(bare), "ten seconds": limit(10)},
        [
            Comparison("second start", "ten seconds", "seconds", at_most=1),
            Comparison("second start", "records read bare", "seconds"),
        ],
    )


def _pretend(config: SynthesizeConfig) -> None:
    """Leaves the output as a finished run would: one shard is committed, the others are it under other numbers."""
    from pipeline.commit import ShardCommitter, ShardResult, encode_record, record_name
    from pipeline.run_record import claim
    from pipeline.synthesize import open_store, settle
    from pipeline.timings import put_timing, timing_name
    from tests.benchmarks.writing import output_rows

    store = open_store(config)
    run = claim(store, settle(config, store)[0])
    table, images, no_rejects = output_rows(1, 2000)
    record = ShardCommitter(store, "parquet", run.fingerprint).commit(
        ShardResult(0, 1, table, images, no_rejects, {"descriptions": {"prompt": 1}, "tokens": 0})
    ).record  # fmt: skip
    put_timing(store, 0, "", rows=1, images=1, tokens=0, expand_seconds=0.0, render_seconds=0.1, write_seconds=0.1)
    data, note = (Path(store.path(name)).read_bytes() for name in (record["data"]["name"], timing_name(0)))
    for shard in range(1, run.plan.shards):
        name = record["data"]["name"].replace("000000", f"{shard:06d}")
        Path(store.path(name)).write_bytes(data)
        Path(store.path(timing_name(shard))).write_bytes(note)
        Path(store.path(record_name(shard))).write_bytes(
            encode_record({**record, "shard": shard, "data": {**record["data"], "name": name}})
        )


def _in_a_process(shards: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.scale", str(shards)], check=True, capture_output=True, text=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


class _ActorMemory:
    """Samples the resident memory of the generator actor; ``last`` is what it held near the end of the run."""

    def __init__(self) -> None:
        self.last = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.25):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "GenerateStage" in "".join(process.cmdline()):
                        self.last = process.memory_info().rss

    def __enter__(self) -> _ActorMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def _one(shards: int) -> None:
    from pipeline.config import SynthesizeConfig
    from pipeline.config_file import load_config
    from pipeline.synthesize import synthesize

    with tempfile.TemporaryDirectory() as directory, _ActorMemory() as actor, TreeClock(period=1.0) as tree:
        overrides = _overrides(Path(directory), shards)
        with TreeClock(period=0.05, alone=True) as driver:
            synthesize(load_config(SynthesizeConfig, None, overrides), quiet=True)
        times = sorted(p.stat().st_mtime for p in Path(directory).glob("out/_run/shards/*.json"))
    result = {
        "seconds/shard": (times[-1] - times[0]) / (shards - 1),
        "CPU seconds/shard": tree.between(times[0], times[-1]) / (shards - 1),
        "driver CPU seconds/shard": driver.between(times[0], times[-1]) / (shards - 1),
        "actor bytes": actor.last,
        "driver bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(result))


def _overrides(directory: Path, shards: int) -> list[str]:
    from tests.models import save_gan

    model = save_gan(directory / "model")
    pq.write_table(pa.table({"prompt": [f"a red heart number {i}" for i in range(shards)]}), directory / "p.parquet")
    return [
        f"prompts.uri={directory / 'p.parquet'}", f"output.uri={directory / 'out'}", f"generate.model={model}",
        "expand=null", "shards.rows=1",
    ]  # fmt: skip


if __name__ == "__main__":
    _one(int(sys.argv[1]))
