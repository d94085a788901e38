"""Prompts in, images out: ``python -m jobs.synthesize CONFIG.yaml [section.key=value ...]`` is what one submits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.printing import print_rows, tell
from pipeline import logs
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.run_date import dated, run_date

if TYPE_CHECKING:
    from pipeline.synthesize import Summary


def run(
    config_path: Path | None,
    overrides: list[str],
    *,
    address: str | None,
    quiet: bool,
    debug: bool,
    date: str | None = None,
) -> None:
    """Loads the config, makes the dataset, prints the summary."""
    config = load_config(SynthesizeConfig, config_path, overrides)
    logs.begin(logs.log_settings(config.log), actor="driver")
    config = dated(config, None if date is None else run_date(date))
    from pipeline.summary import refuse_rejects
    from pipeline.synthesize import synthesize

    def say(text: str) -> None:
        if not quiet:
            tell(text)

    summary = synthesize(config, address=address, quiet=quiet, debug=debug, say=say)
    print_rows(summary_rows(summary))
    refuse_rejects(summary.totals, config.limits.max_reject_fraction, summary.output)


def summary_rows(summary: Summary) -> list[tuple[str, str]]:
    """The end of a run for `jobs.printing.print_rows`."""
    totals = summary.totals
    return [
        ("rows in", f"{totals.planned} = {totals.committed} committed + {totals.rejected} rejected"),
        ("images out", f"{totals.images} in {totals.shards} shards, {totals.bytes / 1e6:.1f} MB"),
        ("descriptions", ", ".join(f"{n} {s}" for s, n in totals.descriptions.most_common()) or "none"),
        ("rejects", ", ".join(f"{n} {r}" for r, n in totals.reasons.most_common()) or "none"),
        ("this start", f"{summary.made_images} images in {summary.made_shards} shards, {summary.seconds:.0f} s"
         + (f", {summary.adopted_shards} shards found finished" if summary.adopted_shards else "")),
        ("rates", summary.rates.sentence() if summary.rates else "none measured"),
        *([("tokens", summary.tokens)] if summary.tokens else []),
        ("dataset", summary.output),
        ("report", summary.report),
    ]  # fmt: skip


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["synthesize", *sys.argv[1:]]))
