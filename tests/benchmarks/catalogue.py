"""Which benchmarks there are, and one of them run."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Bench, Benchmark, run_contest, say
from tests.benchmarks.prompts import benchmark_prompts

# Named as module:function, so that a process loads the libraries of its own benchmark alone.
BENCHMARKS = {
    "startup": "startup:startup",
    "first-shard": "startup:first_shard",
    "expansion": "expansion:expansion",
    "kernels": "kernels:kernels",
    "gan": "rendering:gan",
    "encoding": "rendering:encoding",
    "diffusers": "rendering:diffusers",
    "writing": "writing:writing",
    "s3": "writing:s3",
    "find-row": "writing:find_row",
    "overhead": "overhead:overhead",
    "scale": "scale:scale",
    "workers": "many_actors:workers",
    "plan": "scale:plan",
    "resume": "scale:resume",
    "training": "training:training",
    "evaluation": "evaluation:evaluation",
}
EXTRA = {"scale-10000": "scale:scale_10000"}  # only where they are named: ten minutes
VLLM = "PROMPTMILL_BENCH_VLLM"
"""Environment variable: the Python of an environment with vLLM, which then takes part in `expansion`."""
QUICK = ("gan", "encoding", "writing", "find-row", "plan", "resume")
"""Run by --quick: none of them starts Ray or loads the language model."""


def run_one(place: str, quick: bool, prompts: Path | None, turns: int | None = None) -> dict[str, Any]:
    """Runs the benchmark ``module:function`` in this process."""
    module, _, function = place.partition(":")
    benchmark: Benchmark = getattr(importlib.import_module(f"tests.benchmarks.{module}"), function)
    with tempfile.TemporaryDirectory(prefix="promptmill-bench-") as scratch:
        bench = Bench(quick, Path(scratch), benchmark_prompts(prompts))
        with bench.cleanup:
            return run_contest(benchmark(bench), quick, say, turns)
