"""Prompts in, images out: ``python -m jobs.synthesize CONFIG.yaml [section.key=value ...]`` is what one submits."""

from __future__ import annotations

import sys
from pathlib import Path

from actors.errors import JobError
from jobs.printing import print_rows, tell
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config


def run(config_path: Path | None, overrides: list[str], *, address: str | None, quiet: bool, debug: bool) -> None:
    """Loads the config, makes the dataset, prints the summary."""
    config = load_config(SynthesizeConfig, config_path, overrides)
    from pipeline.synthesize import Summary, synthesize

    def say(text: str) -> None:
        if not quiet:
            tell(text)

    summary: Summary = synthesize(config, address=address, quiet=quiet, debug=debug, say=say)
    totals = summary.totals
    rows = [
        ("rows in", f"{totals.planned} = {totals.committed} committed + {totals.rejected} rejected"),
        ("images out", f"{totals.images} in {totals.shards} shards, {totals.bytes / 1e6:.1f} MB"),
        ("descriptions", ", ".join(f"{n} {s}" for s, n in totals.descriptions.most_common()) or "none"),
        ("rejects", ", ".join(f"{n} {r}" for r, n in totals.reasons.most_common()) or "none"),
        ("this start", f"{summary.made_images} images in {summary.made_shards} shards, {summary.seconds:.0f} s"
         + (f", {summary.adopted_shards} shards found finished" if summary.adopted_shards else "")),
        ("rates", summary.rates.sentence() if summary.rates else "none measured"),
        ("dataset", summary.output),
        ("report", summary.report),
    ]  # fmt: skip
    print_rows(rows)
    if totals.reject_fraction > config.limits.max_reject_fraction:
        raise JobError(
            f"{totals.rejected} of {totals.planned} rows were rejected, more than limits.max_reject_fraction="
            f"{config.limits.max_reject_fraction:g} allows; see '{summary.output}/rejects'"
        )


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["synthesize", *sys.argv[1:]]))
