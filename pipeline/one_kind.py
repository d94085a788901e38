"""A place holds a dataset or a training run, not both: each would write its page over the other's."""

from __future__ import annotations

from actors.errors import UserError
from pipeline.storage import Store

RUN = "_run/run.json"
"""The record of a dataset, under its output."""
TRAINING = "run.json"
"""The record of a training run, under its output."""


def refuse_dataset(store: Store) -> None:
    """Raises `UserError` where a dataset was begun, for a training run that has none of its own there."""
    if store.size(RUN) is not None:
        raise UserError(f"'{store.public()}' holds a dataset ({RUN}): take another output.uri")


def refuse_training(store: Store) -> None:
    """Raises `UserError` where a training run was begun, for a dataset that has none of its own there."""
    if store.size(TRAINING) is not None:
        raise UserError(f"'{store.public()}' holds a training run ({TRAINING}): take another output.uri")
