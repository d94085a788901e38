"""What training asks of its process group; each answer is right for one process without a group too."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def workers() -> int:
    """Number of training workers; 1 outside of a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this worker, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def wrapped(objective: nn.Module) -> nn.Module:
    """A module whose forward pass is a loss, so that its gradients are averaged over the workers (DDP)."""
    # Buffers come from running statistics that are averaged already; broadcasting them would cost a round a step.
    return DistributedDataParallel(objective, broadcast_buffers=False) if workers() > 1 else objective


def unsynced(objective: nn.Module) -> AbstractContextManager[None]:
    """Gradients of a backward pass inside are kept to the worker: all but the last micro-batch of a step."""
    held: AbstractContextManager[None] = (
        objective.no_sync() if isinstance(objective, DistributedDataParallel) else contextlib.nullcontext()
    )
    return held


def gather(rows: Tensor) -> Tensor:
    """The rows of all workers, in order of rank; a gradient flows into this worker's own rows alone.

    Each worker computes the loss of the whole batch. DDP then *averages* the workers' gradients, each of which is the
    part that came through its own rows: multiply the loss by the number of workers and the average is the gradient of
    one worker with the whole batch.
    """
    if workers() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(workers())]
    dist.all_gather(parts, rows.detach().contiguous())
    parts[rank()] = rows
    return torch.cat(parts)


def mean_of_workers(value: Tensor) -> Tensor:
    """The mean over all workers of a tensor that none of them needs a gradient of."""
    if workers() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / workers()
