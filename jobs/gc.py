"""What an output holds that nobody needs: ``promptmill gc OUTPUT [--older-than 24h] [--yes]``."""

from __future__ import annotations

import re
import sys

from actors.errors import UserError
from pipeline.inert_text import printable

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def run(output: str, *, older_than: str, yes: bool, sse: str | None = None) -> None:
    """Lists the garbage, one line each, and deletes it where ``yes`` is set."""
    from pipeline.garbage import collect
    from pipeline.server_side_encryption import with_sse
    from pipeline.storage import Store

    found = collect(Store(output, with_sse({}, sse)), seconds(older_than), delete=yes)
    for one in found.garbage:
        print(f"{one.kind:<8}{one.size:>12}  {duration(one.age):>6}  {printable(one.name)}")
    total = sum(one.size for one in found.garbage)
    verb = "deleted" if found.deleted else "to delete" + (" with --yes" if found.garbage else "")
    print(f"{len(found.garbage)} objects older than {older_than}, {total / 1e6:.1f} MB, {verb}")
    if not found.uploads_known and output.startswith(("s3://", "s3a://")):
        print("this store does not list unfinished uploads, or not to you; a lifecycle rule of the bucket may end them")


def seconds(text: str) -> float:
    """A duration such as ``24h``, ``30m``, ``7d`` or ``90s`` in seconds; raises `UserError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if found is None:
        raise UserError(f"'{text}' is no age; write a number and s, m, h or d, such as --older-than 24h")
    return float(found[1]) * _UNITS[found[2]]


def duration(age: float) -> str:
    """Seconds in the largest unit that gives at least one."""
    for unit in ("d", "h", "m"):
        if age >= _UNITS[unit]:
            return f"{age / _UNITS[unit]:.0f}{unit}"
    return f"{max(0.0, age):.0f}s"


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["gc", *sys.argv[1:]]))
