"""Row ids: the table's own, or a hash of the row's content plus its occurrence number, and which rows repeat an id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.columns import INTEGERS, TEXTS, TableColumns
from pipeline.prompts import PromptTable

_ENCODER = json.JSONEncoder(sort_keys=True)  # json.dumps would make one for each row


def base_ids(table: pa.Table, columns: TableColumns) -> list[str]:
    """The id of each row before repeats are told apart.

    A row's own ``id`` where the table has one and it is not null or empty; otherwise 20 hex digits of BLAKE2b over what
    decides the picture (prompt, recipe, negative prompt, number, seed, size), so that reordering a table or changing a
    carried column keeps its ids.
    """
    own = table["id"].to_pylist() if "id" in columns.honoured else [None] * table.num_rows
    parts = [name for name in (*TEXTS, *INTEGERS) if name in columns.honoured]
    prompts = table[columns.prompt].to_pylist()
    values = {name: table[name].to_pylist() for name in parts}
    ids = []
    for row, (given, prompt) in enumerate(zip(own, prompts, strict=True)):
        if given is not None and str(given) != "":
            ids.append(str(given))
            continue
        content = {"prompt": prompt} | {n: values[n][row] for n in parts if values[n][row] is not None}
        ids.append(content_digest(content).hex())
    return ids


def content_digest(content: Mapping[str, Any]) -> bytes:
    """10 bytes of BLAKE2b over the prompt and those honoured columns of a row that are not null."""
    return hashlib.blake2b(_ENCODER.encode(content).encode(), digest_size=10).digest()


def find_repeats(table: PromptTable, columns: TableColumns) -> dict[int, int]:
    """Rows that repeat the id of an earlier row: {row number in the table: how many came before it}.

    Streams the id columns and keeps 8 bytes a row while it runs; a second pass over the candidates alone tells true
    repeats from collisions of the 64-bit hashes.
    """
    hashes = [
        np.fromiter((_hash64(name) for name in names), dtype=np.uint64, count=len(names))
        for names in _id_batches(table, columns)
    ]
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    candidates = set(values[counts > 1].tolist())
    if not candidates:
        return {}
    seen: dict[str, int] = {}
    repeats: dict[int, int] = {}
    row = 0
    for names in _id_batches(table, columns):
        for name in names:
            if _hash64(name) in candidates:
                before = seen.get(name, 0)
                if before:
                    repeats[row] = before
                seen[name] = before + 1
            row += 1
    return repeats


def _id_batches(table: PromptTable, columns: TableColumns) -> Iterator[list[str]]:
    names = [columns.prompt, *(n for n in ("id", *TEXTS, *INTEGERS) if n in columns.honoured)]
    for batch in table.batches(names):
        yield base_ids(batch, columns)


def _hash64(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
