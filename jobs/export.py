"""Makes a model directory out of a training run: ``python -m jobs.export CHECKPOINT OUT [--best]``."""

from __future__ import annotations

import sys

from pipeline.inert_text import printable
from pipeline.storage_errors import public_uri


def run(checkpoint: str, out: str, *, best: bool, sse: str | None = None) -> None:
    """Exports, and prints what."""
    from pipeline.export import export
    from pipeline.server_side_encryption import with_sse

    where = printable(public_uri(out))
    made = export(checkpoint, out, best=best, options=with_sse({}, sse))
    print(f"{where}: checkpoint {printable(made)}; render with generate.model={where}")


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["export", *sys.argv[1:]]))
