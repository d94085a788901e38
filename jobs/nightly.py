"""One dataset a night: ``python -m jobs.nightly CONFIG.yaml [--date YYYY-MM-DD] [section.key=value ...]``."""

from __future__ import annotations

import sys
from pathlib import Path

from jobs.printing import print_rows, tell
from jobs.synthesize import summary_rows
from pipeline import logs
from pipeline.config_file import load_config
from pipeline.nightly_config import NightlyConfig
from pipeline.run_date import run_date


def run(
    config_path: Path | None, overrides: list[str], *, date: str | None, address: str | None, quiet: bool, debug: bool
) -> None:
    """Loads the config, runs the night, prints what came of it."""
    config = load_config(NightlyConfig, config_path, overrides)
    logs.begin(logs.log_settings(config.log), actor="driver")
    day = run_date(date)
    from pipeline.nightly import nightly

    def say(text: str) -> None:
        if not quiet:
            tell(text)

    night = nightly(config, day, address=address, quiet=quiet, debug=debug, say=say)
    rows = [("date", day)]
    if night.chosen is not None:
        own = night.chosen
        rows.append(
            ("prompts", f"{own.table_rows} = {own.rows} to make + {own.made_before} made by earlier runs "
             f"({len(own.compared)} compared)")
        )  # fmt: skip
    if night.summary is None:
        print_rows([*rows, ("ended", night.state)])
        return
    rows += summary_rows(night.summary)
    if night.moved is not None:
        rows.append(("latest", night.moved.pointer.date + (", moved here" if night.moved.moved else ", as it was")))
    if config.nightly.keep is not None:
        rows.append(("deleted", ", ".join(night.deleted) or "nothing"))
    print_rows(rows)


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["nightly", *sys.argv[1:]]))
