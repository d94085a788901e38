"""Rounds of synthesis: ``python -m jobs.refine CONFIG.yaml [section.key=value ...]``."""

from __future__ import annotations

import sys
from pathlib import Path

from jobs.printing import print_rows, tell
from pipeline import logs
from pipeline.config_file import load_config
from pipeline.refine_config import RefineConfig
from pipeline.storage_errors import public_uri


def run(config_path: Path | None, overrides: list[str], *, address: str | None, quiet: bool, debug: bool) -> None:
    """Loads the config, runs the rounds, prints what each reached."""
    config = load_config(RefineConfig, config_path, overrides)
    logs.begin(logs.log_settings(config.log), actor="driver")
    from pipeline.refine import BEST, REPORT, refine

    def say(text: str) -> None:
        if not quiet:
            tell(text)

    rounds, reason = refine(config, address=address, quiet=quiet, debug=debug, say=say)
    lines = [
        (f"round {one.number}", f"mean similarity {one.similarity:.4f}; {one.prompts} prompts, {one.images} images, "
         f"{one.improved} prompts improved")
        for one in rounds
    ]  # fmt: skip
    base = public_uri(config.output.uri).rstrip("/")
    print_rows([*lines, ("ended", reason), ("best", f"{base}/{BEST}"), ("report", f"{base}/{REPORT}")])


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["refine", *sys.argv[1:]]))
