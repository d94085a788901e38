"""Older dated outputs, deleted when ``latest.json`` has moved on: the newest ``nightly.keep`` complete ones stay.

Deleted is only what `promptmill nightly` made under this very template: its note, ``_run/nightly.json``, says so. Of
these stay, whatever their number:

- the output that ``latest.json`` names, and all of later dates;
- complete outputs among the newest ``keep``, and unfinished ones as new as those;
- outputs that `nightly.since` matches, where the run is incremental: each holds prompts that no other has, and without
  it tomorrow's run would make them again;
- outputs at which a run is at work, and those in which something lies that promptmill did not put there.

Commit records go first: from then on the shards do not exist, for readers and for a later `since`. The run record and
the note go last: a deletion that was cut off is recognised, and the next night ends it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.errors import UserError
from pipeline.commit import RECORDS, committed_shards, decode_record, encode_record
from pipeline.drivers import noted
from pipeline.evaluation_report import EVALUATION
from pipeline.incremental import neighbour
from pipeline.latest import Pointer
from pipeline.run_date import DatedPlace
from pipeline.run_record import RUN
from pipeline.storage import Store

NOTE = "_run/nightly.json"
FORMAT = 1
_OWN = ("README.md", "report.html")
_OWN_DIRECTORIES = ("data", "rejects", EVALUATION)


@dataclass(frozen=True)
class Dated:
    """One output of the template: its name under the parent, its date, and whether each of its shards is committed."""

    name: str
    date: str
    complete: bool


def put_note(store: Store, place: DatedPlace, date: str, told: dict[str, Any]) -> None:
    """Says in an output that it is one of a template; an earlier start's note stays."""
    store.create(NOTE, encode_record({"format": FORMAT, "template": place.template, "date": date, **told}))


def delete_older(
    store: Store,
    place: DatedPlace,
    pointer: Pointer,
    keep: int,
    needed: Callable[[Store], bool],
    say: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """Deletes what is older than the newest ``keep`` complete outputs.

    Args:
        store: the parent of the dated outputs.
        pointer: what ``latest.json`` says now.
        needed: whether an output must stay for a later run.

    Returns:
        The names of the outputs that were deleted, oldest first.
    """
    found = sorted(_outputs(store, place), key=lambda one: one.date)
    kept = [one.date for one in found if one.complete and one.date <= pointer.date][-keep:]
    if not kept:
        return []
    gone, stay = [], 0
    for one in found:
        if one.date >= kept[0] or one.date >= pointer.date or one.name == pointer.output:
            continue
        output = neighbour(store, f"{store.uri.rstrip('/')}/{one.name}")
        if needed(output):
            stay += 1
            continue
        strange = _strange(output)
        if strange:
            say(f"'{output.public()}' stays: '{strange}' in it is none of promptmill's")
            continue
        with noted(output) as notes:
            if notes.alive():
                say(f"'{output.public()}' stays: a run is at work on it")
                continue
        delete_output(output)
        gone.append(one.name)
    if stay:
        say(f"{stay} output(s) older than the newest {keep} (nightly.keep) stay: later runs compare with them")
    return gone


def delete_output(store: Store) -> None:
    """Deletes an output: commit records, data, pages, the run record, the note."""
    last = (RUN, NOTE)
    for directory in (RECORDS, *_OWN_DIRECTORIES):
        for name in _below(store, directory):
            store.remove(name)
    for name in _OWN:
        store.remove(name)
    for name in _below(store, "_run"):
        if name not in last:
            store.remove(name)
    for name in last:
        store.remove(name)
    if store.local:
        # Only what is empty goes: whatever came since stays with its directories.
        root = Path(store.root)
        directories = [path for path in root.rglob("*") if path.is_dir() and not path.is_symlink()]
        for path in [*sorted(directories, key=lambda path: len(path.parts), reverse=True), root]:
            if not any(path.iterdir()):
                path.rmdir()


def _outputs(store: Store, place: DatedPlace) -> Iterator[Dated]:
    for name in store.directories(""):
        date = place.date_of(name)
        if date is None:
            continue
        raw = store.read(f"{name}/{NOTE}")
        if raw is None or not _is_ours(raw, place, date):
            continue
        yield Dated(name, date, _is_complete(neighbour(store, f"{store.uri.rstrip('/')}/{name}")))


def _is_ours(raw: bytes, place: DatedPlace, date: str) -> bool:
    try:
        note = json.loads(raw)
    except ValueError:
        return False
    wanted = {"format": FORMAT, "template": place.template, "date": date}
    return isinstance(note, dict) and all(note.get(name) == value for name, value in wanted.items())


def _is_complete(store: Store) -> bool:
    raw = store.read(RUN)
    if raw is None:
        return False
    try:
        identity = decode_record(raw, store.public(RUN))["identity"]
        shards = -(-int(identity["table"]["rows"]) // int(identity["config"]["shards"]["rows"]))
    except (UserError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return False
    return len([shard for shard in committed_shards(store) if shard < shards]) == shards


def _strange(store: Store) -> str | None:
    """Something at the top of an output that promptmill does not put there; None where there is nothing."""
    names = [*(entry.name for entry in store.list("")), *store.directories("")]
    odd = (name for name in names if name not in (*_OWN, *_OWN_DIRECTORIES, "_run") or _is_link(store, name))
    return store.root if _is_link(store, "") else next(odd, None)


def _is_link(store: Store, name: str) -> bool:
    # What lies behind a link is somebody else's.
    return store.local and Path(store.path(name).rstrip("/")).is_symlink()


def _below(store: Store, directory: str) -> list[str]:
    """The objects under a directory, however deep."""
    found = [entry.name for entry in store.list(directory)]
    for inner in store.directories(directory):
        if not _is_link(store, inner):
            found += _below(store, inner)
    return found
