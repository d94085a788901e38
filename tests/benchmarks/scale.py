"""Does a shard cost the same in a long run as in a short one? Time a shard and memory (driver, actor), by shards.

    python -m tests.benchmarks.scale 10 100 1000

A trivial generator: the real GAN classes with a few thousand weights, one row a shard, no LLM. Each size runs
in a process of its own with a local Ray; the time a shard is taken between the first and the last commit record, so
start-up is not in it. Absolute figures depend on the machine: read the ratios to the smallest size.
"""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

PLAN_SHARDS = 10_000


def main(sizes: list[str]) -> None:
    """Prints one line a size, and one for planning ten thousand shards."""
    found = [_typical(int(size)) for size in sizes]
    base = found[0]
    print(f"{'shards':>8} {'time/shard':>11} {'end/start':>10} {'driver memory':>14} {'actor memory':>13}")
    for one in found:
        ratios = [one[name] / base[name] for name in ("seconds_a_shard", "driver_bytes", "actor_bytes")]
        print(f"{one['shards']:>8} {ratios[0]:>11.2f} {one['slowdown']:>10.2f} {ratios[1]:>14.2f} {ratios[2]:>13.2f}")
    print("(ratios to the first line; end/start: time a shard in a run's last half to that in its first half)")
    print(f"plan of {PLAN_SHARDS} shards: {_plan_seconds():.1f} s on this machine")


def _typical(shards: int) -> dict[str, float]:
    """The median of several runs where one lasts a second or less, and noise would drown it."""
    runs = [_in_a_process(shards) for _ in range(5 if shards < 100 else 3 if shards < 500 else 1)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _in_a_process(shards: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.scale", "--one", str(shards)],
        check=True,
        capture_output=True,
        text=True,
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

    with tempfile.TemporaryDirectory() as directory, _ActorMemory() as actor:
        overrides = _overrides(Path(directory), shards)
        synthesize(load_config(SynthesizeConfig, None, overrides), quiet=True)
        times = sorted(p.stat().st_mtime for p in Path(directory).glob("out/_run/shards/*.json"))
    result = {
        "shards": shards,
        "slowdown": (times[-1] - times[shards // 2]) / (times[(shards - 1) // 2] - times[0]),
        "seconds_a_shard": (times[-1] - times[0]) / (shards - 1),
        "actor_bytes": actor.last,
        "driver_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(result))


def _plan_seconds() -> float:
    from pipeline.config import SynthesizeConfig
    from pipeline.config_file import load_config
    from pipeline.synthesize import open_store, settle

    with tempfile.TemporaryDirectory() as directory:
        config = load_config(SynthesizeConfig, None, _overrides(Path(directory), PLAN_SHARDS))
        begun = time.perf_counter()
        run, _ = settle(config, open_store(config))
        tasks = [run.plan.shard(index) for index in range(run.plan.shards)]
        seconds = time.perf_counter() - begun
    assert len(tasks) == PLAN_SHARDS
    return seconds


def _overrides(directory: Path, shards: int) -> list[str]:
    from tests.models import save_gan

    model = save_gan(directory / "model")
    pq.write_table(pa.table({"prompt": [f"a red heart number {i}" for i in range(shards)]}), directory / "p.parquet")
    return [
        f"prompts.uri={directory / 'p.parquet'}", f"output.uri={directory / 'out'}", f"generate.model={model}",
        "expand=null", "shards.rows=1",
    ]  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        _one(int(sys.argv[2]))
    else:
        main(sys.argv[1:] or ["10", "100", "1000"])
