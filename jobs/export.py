"""Makes a model directory out of a training run: ``python -m jobs.export CHECKPOINT OUT [--best]``."""

from __future__ import annotations

import sys


def run(checkpoint: str, out: str, *, best: bool) -> None:
    """Exports, and prints what."""
    from pipeline.export import export

    print(f"{out}: checkpoint {export(checkpoint, out, best=best)}; render with generate.model={out}")


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["export", *sys.argv[1:]]))
