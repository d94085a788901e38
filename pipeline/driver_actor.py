"""Small actors that the driver and its workers talk through."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def beside_driver(kind: type, *arguments: object, **options: Any) -> Any:
    """Starts an actor with no resources of its own on the driver's node; returns its handle.

    On a worker it would be lost with the node, and keep a node that is to go from ending.

    Args:
        kind: its class.
        arguments: of its constructor.
        options: of ``ray.remote``, e.g. ``max_restarts``.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(num_cpus=0, scheduling_strategy=here, **options)(kind).remote(*arguments)
