"""What a commit record must look like, and which objects it names: a damaged or forged record names none.

Whoever moves or deletes objects trusts a record's names only after `shape_fault` found nothing: a name that leaves its
shard's own places would let a forged record point at anything in the store.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipeline.formats import FORMATS

_COUNTS = ("rows", "committed", "rejected", "images", "tokens")
_REJECTS = re.compile(r"rejects/shard-(\d{6,})-([0-9a-f]{12})\.parquet")
_PART = re.compile(r"data/shard-(\d{6,})/(\d{6,})-([0-9a-f]{12})\.(?:png|jpg|webp)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def shape_fault(record: Any, shard: int, output_format: str, *, header: bool = False) -> str | None:
    """Why this is no record of shard ``shard``, in words; None where it is one.

    Args:
        header: it is the header inside a data object, which has no entry of the data object itself.
    """
    if not isinstance(record, dict):
        return "it is no JSON object"
    if not isinstance(record.get("fingerprint"), str):
        return "its fingerprint is missing"
    if record.get("shard") != shard:
        return f"it says that it is shard {_shown(record.get('shard'))}"
    for name in _COUNTS:
        if not _is_count(record.get(name)):
            return f"its count '{name}' is missing or no number"
    if not _is_count(record.get("prompt_tokens", 0)):
        return "its count 'prompt_tokens' is no number"
    for name in ("reasons", "descriptions"):
        if not isinstance(record.get(name), dict) or not all(map(_is_count, record[name].values())):
            return f"its counts '{name}' are missing or no numbers"
    if not isinstance(record.get("parts"), list):
        return "its list of parts is missing"
    entries = [("rejects", record.get("rejects"))] if record.get("rejects") is not None else []
    entries += [("a part", part) for part in record["parts"]]
    entries += [] if header else [("data", record.get("data"))]
    for what, entry in entries:
        if not _is_entry(entry):
            return f"its entry of {what} has no name, size or sha256"
    return _name_fault(record, shard, output_format, header)


def counts_fault(record: dict[str, Any], planned: int) -> str | None:
    """Which of a well-shaped record's counts do not add up, in words; None where all do.

    Args:
        planned: rows that the plan gives the shard.
    """
    rows, committed, rejected = record["rows"], record["committed"], record["rejected"]
    if rows != committed + rejected:
        return f"{rows} rows are not {committed} committed + {rejected} rejected"
    if rows != planned:
        return f"it has {rows} rows, the plan gives its shard {planned}"
    if sum(record["reasons"].values()) != rejected:
        return f"its reasons add up to {sum(record['reasons'].values())}, not to {rejected} rejected rows"
    if (record["rejects"] is not None) != bool(rejected):
        return f"it names {'a' if record['rejects'] else 'no'} rejects object with {rejected} rejected rows"
    if record["images"] < bool(committed):
        return f"{committed} rows are committed with no image"
    return None


def objects_of(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The entries of a well-shaped record: parts, rejects, data, in the order in which they were put."""
    yield from record["parts"]
    if record["rejects"] is not None:
        yield record["rejects"]
    if "data" in record:
        yield record["data"]


def shard_of(name: str, output_format: str) -> int | None:
    """The shard that an object under ``data/`` or ``rejects/`` belongs to by its name; None: no name of ours."""
    found = _REJECTS.fullmatch(name) or (_PART.fullmatch(name) if output_format == "files" else None)
    if found is None:
        suffix = re.escape(FORMATS[output_format].suffix)
        found = re.fullmatch(rf"data/shard-(\d{{6,}}){suffix}", name)
    return None if found is None else int(found[1])


def digest_in_name(name: str) -> str | None:
    """The start of the sha256 that a part's or rejects object's name promises; None for other names."""
    found = _REJECTS.fullmatch(name) or _PART.fullmatch(name)
    return None if found is None else found[found.re.groups]


def _name_fault(record: dict[str, Any], shard: int, output_format: str, header: bool) -> str | None:
    if not header and record["data"]["name"] != FORMATS[output_format]().data_name(shard):
        return "the data object that it names is not its shard's"
    rejects = record["rejects"]
    if rejects is not None:
        found = _REJECTS.fullmatch(rejects["name"])
        if found is None or int(found[1]) != shard or not rejects["sha256"].startswith(found[2]):
            return "the rejects object that it names is not its shard's"
    if output_format != "files":
        return "it names parts, which its format has none of" if record["parts"] else None
    for row, part in enumerate(record["parts"]):
        found = _PART.fullmatch(part["name"])
        if found is None or (int(found[1]), int(found[2])) != (shard, row) or not part["sha256"].startswith(found[3]):
            return f"its part {row} has a name that is not its shard's"
    if len(record["parts"]) != record["images"]:
        return f"it names {len(record['parts'])} parts and counts {record['images']} images"
    return None


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and _is_count(entry.get("size"))
        and isinstance(entry.get("sha256"), str)
        and _SHA256.fullmatch(entry["sha256"]) is not None
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"a {type(value).__name__}"
