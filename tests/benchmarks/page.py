"""The one page of `make bench`: what against what, the ratio with its spread, the target, and whether it is met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_page(report: Mapping[str, Any], console: Console) -> None:
    """Prints ``bench.json``'s content as a table."""
    table = Table(title="Ratios of work done in turn on the same cores: median, least .. most", title_justify="left")
    for name in ("benchmark", "what", "against", "in", "ratio", "ratio of CPU time", "turns", "target", "met"):
        table.add_column(
            name, justify="right" if name in {"ratio", "ratio of CPU time", "turns"} else "left", overflow="fold"
        )
    for name, result in report["benchmarks"].items():
        if "error" in result:
            table.add_row(name, result["error"], *[""] * 6, "failed", style="red")
            continue
        for row in result["comparisons"]:
            met = {True: "yes", False: "NO", None: ""}[row["met"]]
            table.add_row(
                name, row["ours"], row["baseline"], row["measure"],
                _figure(row), _figure(row["cpu"]), str(row["turns"]), row["target"], met,
            )  # fmt: skip
    console.print(table)
    machine = report["machine"]
    console.print(
        f"{machine['cpu']}, {machine['usable_cores']} cores, {machine['memory_gib']:g} GiB; load before "
        f"{machine['load'][0]:g}; {report['seconds']:.0f} s in all",
        highlight=False,
    )


def _figure(found: Mapping[str, Any] | None) -> str:
    return "" if found is None else f"{found['ratio']:.3g}, {found['least']:.3g} .. {found['most']:.3g}"
