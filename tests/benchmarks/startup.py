"""What stands between the command and its first words: ``promptmill --help`` beside a Python that does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.benchmarks.harness import Bench, Comparison, Contest, Side


def startup(bench: Bench) -> Contest:
    """Time of ``promptmill --help`` over half a second, and over a bare interpreter and the libraries that it needs."""
    bare = "import typer, rich"
    return Contest(
        {
            "promptmill --help": _timed("-m", "jobs", "--help"),
            "python that imports typer": _timed("-c", bare),
            "half a second": lambda: {"seconds": 0.5},
        },
        [
            Comparison("promptmill --help", "half a second", "seconds", at_most=1),
            Comparison("promptmill --help", "python that imports typer", "seconds"),
        ],
        turns=11,
    )


def _timed(*arguments: str) -> Side:
    def side() -> dict[str, float]:
        begun = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=dict(os.environ))
        return {"seconds": time.perf_counter() - begun}

    return side
