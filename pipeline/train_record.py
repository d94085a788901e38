"""The record of a training run: run.json, put first, says what is trained here; finished.json, put last, that it is."""

from __future__ import annotations

import json
from typing import Any

from actors.errors import UserError
from pipeline.checkpoint_store import CheckpointStore
from pipeline.one_kind import TRAINING, refuse_dataset
from pipeline.storage import Store

_FINISHED = "finished.json"
_PLACE = "workers"
"""The one part of the record that may change from start to start."""


def begin_run(store: Store, identity: dict[str, Any], workers: dict[str, Any], *, fresh: bool) -> None:
    """Notes what a run is, or finds that the one begun here is the same.

    Raises:
        UserError: another run was begun here, or a dataset.
    """
    if fresh:
        store.remove(_FINISHED)
        CheckpointStore(store, 1, lambda text: None).clear()
        store.remove(TRAINING)
    body = json.loads(json.dumps({**identity, _PLACE: workers}))
    found = store.read(TRAINING)
    if found is None:
        refuse_dataset(store)
    else:
        differing = _differences(json.loads(found), body)
        if differing:
            raise UserError(
                f"'{store.public()}' holds a training run with another config or table ({', '.join(differing)}); "
                "take another output.uri, or --fresh to start over there"
            )
    store.replace(TRAINING, json.dumps(body, indent=1, ensure_ascii=False, sort_keys=True).encode())


def read_run(store: Store) -> dict[str, Any]:
    """The record.

    Raises:
        UserError: no training run there.
    """
    found = store.read(TRAINING)
    try:
        body: dict[str, Any] = json.loads(found or b"")
    except ValueError as error:
        raise UserError(f"'{store.public()}' holds no training run ({TRAINING})") from error
    return body


def note_finished(store: Store, model: dict[str, int]) -> None:
    """Notes that the run begun here has made its model; ``model`` holds the sizes of the model's files by name."""
    store.replace(_FINISHED, json.dumps({"model": model}, indent=1, sort_keys=True).encode())


def is_finished(store: Store) -> bool:
    """Whether the run begun here has made its model, and the model is still there."""
    found = store.read(_FINISHED)
    try:
        sizes: dict[str, int] = json.loads(found or b"")["model"]
    except (ValueError, KeyError, TypeError):
        return False  # what cannot be read is made again
    return all(store.size(name) == size for name, size in sizes.items())


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    flat = [_flat({key: value for key, value in body.items() if key != _PLACE}) for body in (before, now)]
    keys = [key for key in sorted({*flat[0], *flat[1]}) if flat[0].get(key) != flat[1].get(key)]
    return [key.removeprefix("config.") for key in keys[:5]]


def _flat(told: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in told.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
