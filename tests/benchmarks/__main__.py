"""``python -m tests.benchmarks [NAMES] [--quick] [--prompts TABLE] [--output bench.json]``: one page of ratios.

Writes what was measured to bench.json, and draws it on bench.html beside it.

Each benchmark runs in a process of its own, so that none inherits another's threads, memory or Ray.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.benchmarks.catalogue import BENCHMARKS, EXTRA, QUICK, VLLM, run_one
from tests.benchmarks.harness import say
from tests.benchmarks.html_page import bench_page
from tests.benchmarks.machine import machine_facts, versions
from tests.benchmarks.page import print_page


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the benchmarks, prints the page, writes the file; returns what the file holds."""
    known = {**BENCHMARKS, **EXTRA}
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all but the last without")
    parser.add_argument("--quick", action="store_true", help="prove that it runs: smallest sizes, one turn")
    parser.add_argument("--prompts", type=Path, help="Parquet table with a column prompt; without it made sentences")
    parser.add_argument("--turns", type=int, metavar="N", help="at most so many turns of each, where time is short")
    parser.add_argument("--vllm", metavar="PYTHON", help="vLLM takes part in `expansion`: the environment's Python")
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    told = parser.parse_args(arguments)
    if unknown := set(told.names) - set(known):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if told.vllm:
        os.environ[VLLM] = told.vllm  # inherited by the benchmark's process
    names = told.names or list(QUICK if told.quick else BENCHMARKS)
    begun = time.monotonic()
    report: dict[str, Any] = {
        "quick": told.quick, "prompts": str(told.prompts or "made"), "machine": machine_facts(), "versions": versions(),
        "benchmarks": {},
    }  # fmt: skip
    for name in names:
        say(f"== {name}")
        started = time.monotonic()
        result = _in_a_process(known[name], told.quick, told.prompts, told.turns)
        report["benchmarks"][name] = {**result, "seconds": round(time.monotonic() - started, 1)}
        report["seconds"] = round(time.monotonic() - begun, 1)
        told.output.write_text(json.dumps(report, indent=1) + "\n")
    told.output.with_suffix(".html").write_text(bench_page(report))
    print_page(report, Console(width=160))
    return report


def _in_a_process(place: str, quick: bool, prompts: Path | None, turns: int | None) -> dict[str, Any]:
    if quick:
        return run_one(place, quick, prompts, turns)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(run_one, place, quick, prompts, turns).result()
        except Exception as error:  # noqa: BLE001 - the other benchmarks are run all the same, and the page says so
            return {"error": f"{type(error).__name__}: {error}"[:500]}


if __name__ == "__main__":
    main()
