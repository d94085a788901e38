"""The embedded training set: ``python -m jobs.prepare_emoji PICTURES.tgz WORDS.tgz OUT.parquet``.

The two arguments are the npm packages ``emoji-datasource-google`` and ``emojibase-data``, as ``npm pack`` makes them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from actors.errors import UserError
from pipeline.emoji import SCHEMA, read_packages, training_rows


def run(pictures: Path, words: Path, target: Path) -> None:
    """Writes the table and says how many pictures it has."""
    table = pa.Table.from_pylist(list(training_rows(read_packages(pictures, words))), SCHEMA)
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, target)
    recoloured = sum(table["recoloured"].to_pylist())
    print(f"{target}: {table.num_rows - recoloured} pictures and {recoloured} recoloured ones")


def main(arguments: list[str]) -> None:
    """Takes the three paths."""
    if len(arguments) != 3:
        raise UserError("usage: python -m jobs.prepare_emoji PICTURES.tgz WORDS.tgz OUT.parquet")
    run(*map(Path, arguments))


if __name__ == "__main__":
    from jobs.cli import guarded

    sys.exit(guarded(lambda: main(sys.argv[1:]), debug=False))
