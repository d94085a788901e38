"""How far a stage may run ahead of the next one: a run that is killed loses what was described and not yet drawn.

By itself Ray Data stops a stage when what it has made fills its share of the object store, half a store of prompts and
descriptions: a night's work of a language model that is faster than the image model. Here it stops at a few shards.
"""

from __future__ import annotations

from typing import Any

from ray.data import DataContext

# Ray Data has no public way to bound a queue by its length; this key of its config is the place for policies of others.
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)

_LEAST = 4
"""Shards that may wait in front of a stage, however few it has in hand: enough to never wait for them itself."""


class Lookahead(BackpressurePolicy):
    """Gives a stage no further shard while more wait in front of the next stage than that one has in hand.

    Reading alone goes on: it costs little, Ray Data bounds it by memory, and Ray ends a reader that is idle for a
    second, so that one which stopped and went on would start a process each time.
    """

    @property
    def name(self) -> str:
        """What Ray Data's progress and statistics call it."""
        return "Lookahead"

    def can_add_input(self, op: Any) -> bool:
        """Whether the operator ``op`` may take a further block."""
        return _reads(op) or all(
            self._topology[then].total_enqueued_input_blocks() < max(_LEAST, then.num_active_tasks())
            for then in op.output_dependencies
        )


def _reads(op: Any) -> bool:
    return any(not before.input_dependencies for before in op.input_dependencies)


def bound_lookahead(context: DataContext) -> None:
    """Has executions of this context hold to it."""
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, Lookahead])
