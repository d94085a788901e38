"""``latest.json``, beside the dated outputs: names the newest one that was verified. Readers start here.

    {"format": 1, "date": "2026-11-26", "output": "2026-11-26", "template": "{date}", "fingerprint": "...",
     "rows": 24, "committed": 24, "rejected": 0, "images": 48, "deep": false}

``output`` is the directory beside this file, so the whole set can be copied or mounted elsewhere. ``rows`` to ``deep``
say what `pipeline.verify` found. The pointer moves by compare-and-swap (`pipeline.swap`), after the output was
verified, and never to an older date unless told; a reader sees the old or the new one, never a part.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from actors.errors import JobError, UserError
from pipeline.run_date import DatedPlace, is_date
from pipeline.storage import Store
from pipeline.swap import Swap
from pipeline.verify import Report

LATEST = "latest.json"
FORMAT = 1
_TRIES = 10


@dataclass(frozen=True)
class Pointer:
    """What ``latest.json`` says; its keys stay."""

    date: str
    output: str
    template: str
    fingerprint: str
    rows: int
    committed: int
    rejected: int
    images: int
    deep: bool


@dataclass(frozen=True)
class Moved:
    """Where the pointer stands now, whether this call moved it there, and whether the store compared."""

    pointer: Pointer
    moved: bool
    atomic: bool = True


def pointer_to(place: DatedPlace, date: str, report: Report) -> Pointer:
    """The pointer to a date's output; ``report`` is its verification.

    Raises:
        JobError: the output is not sound.
    """
    if not report.sound or report.outline is None:
        raise JobError(f"'{report.output}' is not sound; promptmill verify says what is wrong, latest.json stays")
    return Pointer(
        date, place.name(date), place.template, report.outline.fingerprint, report.outline.rows, report.committed,
        report.rejected, report.images, report.deep,
    )  # fmt: skip


def read_pointer(store: Store) -> Pointer | None:
    """The pointer in a parent of dated outputs; None where there is none.

    Raises:
        UserError: it is none of promptmill's, or of a later one.
    """
    found = Swap(store, LATEST).read()
    return None if found is None else _decode(found.data, store.public(LATEST))


def move(store: Store, pointer: Pointer, *, back: bool = False) -> Moved:
    """Has ``latest.json`` point to an output.

    Args:
        store: the parent of the dated outputs.
        back: to an older date too.

    Raises:
        UserError: the pointer belongs to another template, or is none of promptmill's.
        JobError: others move it all the time.
    """
    swap = Swap(store, LATEST)
    for _ in range(_TRIES):
        there = swap.read()
        if there is not None:
            now = _decode(there.data, store.public(LATEST))
            if now.template != pointer.template:
                raise UserError(
                    f"'{store.public(LATEST)}' points to outputs named {now.template}, this run's are named "
                    f"{pointer.template}: give each set a directory of its own"
                )
            if now == pointer or (now.date > pointer.date and not back):
                return Moved(now, moved=False)
        if swap.write(_encode(pointer), there):
            return Moved(pointer, moved=True, atomic=swap.atomic)
    raise JobError(f"'{store.public(LATEST)}' was moved by others {_TRIES} times while it was to be moved; run again")


def _encode(pointer: Pointer) -> bytes:
    return (json.dumps({"format": FORMAT, **asdict(pointer)}, indent=1) + "\n").encode()


def _decode(data: bytes, where: str) -> Pointer:
    try:
        told: dict[str, Any] = json.loads(data)
        version = told.pop("format")
        if isinstance(version, int) and version > FORMAT:
            raise UserError(
                f"'{where}' has format version {version}, and this promptmill knows versions up to {FORMAT}; install "
                "the promptmill that wrote it, or a later one"
            )
        pointer = Pointer(**{name: told[name] for name in Pointer.__dataclass_fields__})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{where}' is no pointer of promptmill; move it away, or choose another output.uri") from error
    # What is compared and deleted by must be what it says it is: this file lies where others can write.
    if version != FORMAT or not is_date(str(pointer.date)) or not isinstance(pointer.template, str):
        raise UserError(f"'{where}' is no pointer of promptmill; move it away, or choose another output.uri")
    return pointer
