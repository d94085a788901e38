"""Real vs generated: ``python -m jobs.evaluate CONFIG.yaml [section.key=value ...]``, or ``--compare A B``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from actors.errors import UserError
from jobs.printing import tell
from pipeline.config_file import load_config
from pipeline.evaluate_config import EvaluateConfig
from pipeline.inert_text import printable
from pipeline.page import figure

_WIDE = 150
"""Characters of a table where no terminal says."""
_ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}


def run(config_path: Path | None, overrides: list[str], *, address: str | None, quiet: bool, debug: bool) -> None:
    """Loads the config, evaluates, prints the metrics."""
    if importlib.util.find_spec("torchmetrics") is None:
        raise UserError("evaluation needs the extra `evaluate`: pip install 'promptmill[evaluate]'")
    from pipeline.evaluate import evaluate

    config = load_config(EvaluateConfig, config_path, overrides)
    document = evaluate(config, address=address, debug=debug, say=_teller(quiet))
    table = Table("metric", "value", "95% interval", "n")
    for line in document["metrics"]:
        interval = "–" if line["low"] is None else f"{figure(line['low'])} to {figure(line['high'])}"
        name = Text(printable(line["name"]) + _ARROWS[line["better"]])
        table.add_row(name, figure(line["value"]), interval, f"{line['n']:,}")
    console = _console()
    console.print(table)
    for warning in document["warnings"]:
        console.print(f"note: {printable(warning)}", highlight=False, markup=False)
    print(printable(f"metrics.json and report.html are in {document['written']}"))


def run_compare(first: str, second: str) -> None:
    """Prints the differences of two evaluations."""
    from pipeline.compare import compare
    from pipeline.judged import read_judged

    differences, remarks = compare(read_judged(first), read_judged(second))
    table = Table("metric", "A", "B", "B - A", "95% interval", "verdict")
    for one in differences:
        table.add_row(
            Text(printable(one.name)), figure(one.first), figure(one.second), figure(one.difference),
            f"{figure(one.low)} to {figure(one.high)}", one.verdict,
        )  # fmt: skip
    console = _console()
    console.print(table)
    for remark in remarks:
        console.print(f"note: {printable(remark)}", highlight=False, markup=False)


def _teller(quiet: bool) -> Callable[[str], Any]:
    def say(text: str) -> None:
        if not quiet:
            tell(text)

    return say


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = _WIDE  # a file has no edge to break lines at
    return console


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["evaluate", *sys.argv[1:]]))
