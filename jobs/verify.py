"""An output checked against its records: ``promptmill verify OUTPUT [--deep] [--repair] [--json FILE]``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from actors.errors import JobError
from pipeline.inert_text import printable

if TYPE_CHECKING:
    from pipeline.verify import Report

_SHOWN = 50
"""Findings that are printed; the JSON report has all."""


def run(
    output: str, *, deep: bool, repair: bool, workers: int, to: str | None, quiet: bool, sse: str | None = None
) -> None:
    """Verifies, prints or writes the report; raises `JobError` (exit status 1) where anything was found."""
    from pipeline.server_side_encryption import with_sse
    from pipeline.storage import Store
    from pipeline.verify import verify

    report = verify(Store(output, with_sse({}, sse)), deep=deep, repair=repair, workers=workers, quiet=quiet)
    if to is not None:
        # In ASCII: a store's names may hold what steers a terminal, or what no file takes.
        text = json.dumps(report.document(), indent=1) + "\n"
        if to == "-":
            sys.stdout.write(text)
        else:
            Path(to).write_text(text, encoding="utf-8")
    if to != "-":
        _print(report)
    if not report.sound:
        raise JobError(_verdict(report))


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    own = report.outline
    if own is not None:
        print(
            f"{report.output}: {report.sound_shards} of {own.shards} shards sound, {report.planned} rows = "
            f"{report.committed} committed + {report.rejected} rejected, {report.images} images, "
            f"{report.objects} objects, {report.bytes / 1e6:.1f} MB read"
        )
    if not report.opened:
        print("the rows are encrypted and their key is not here: sizes and digests alone were compared")
    if report.sound:
        print("nothing is wrong" + ("" if report.deep else "; --deep also decodes every image and reads its marks"))
        return
    table = Table("what", "shard", "object", "finding")
    for one in report.findings[:_SHOWN]:
        shard = "" if one.shard is None else str(one.shard)
        table.add_row(one.kind, shard, Text(printable(one.name)), Text(printable(one.detail)))
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a file has no edge to break lines at
    console.print(table)
    if len(report.findings) > _SHOWN:
        print(f"and {len(report.findings) - _SHOWN} more; --json has all")
    if report.quarantined:
        print(f"{len(report.quarantined)} objects moved under _run/quarantine")
    if report.rewritten:
        print(f"{len(report.rewritten)} records written again from their data objects")


def _verdict(report: Report) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(f.kind for f in report.findings).most_common())
    mends = {finding.mend for finding in report.findings}
    if report.outline is None and report.quarantined:
        last = "the run record was moved away: run the same synthesize command, then verify again"
    elif report.reopened:
        last = f"{len(report.reopened)} shards are open again: run the same synthesize command to make them"
    elif report.rewritten:
        last = "the records are mended: verify again"
    elif mends & {"remake", "rewrite"}:
        last = "verify --repair quarantines what is damaged and re-opens just those shards"
    elif "run" in mends:
        last = "run the same synthesize command to finish it"
    elif "collect" in mends:
        last = "promptmill gc deletes what no record names"
    else:
        last = "see the table for what to do by hand"
    return f"'{report.output}' is not sound ({kinds}); {last}"


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["verify", *sys.argv[1:]]))
