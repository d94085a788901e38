"""Where a model runs inside its actor: device and threads follow its resources; what an error says of the device."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# torch is imported where it is used: drivers, which run no model, know this module through the actors' classes.

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "_status_alloc_failed")
_LOST = (
    "cuda error",
    "hip error",
    "device-side assert",
    "_status_execution_failed",
    "_status_internal_error",
    "_status_not_initialized",
)


def use_resources(cpus: float, gpus: float) -> torch.device:
    """Pins torch's threads to the actor's CPUs and returns the device that its GPUs allow.

    Args:
        cpus: CPUs that Ray reserved for the actor; half a one or more counts as a thread, and there is always one.
        gpus: GPUs that Ray reserved; 0 means the CPU even where the machine has a GPU.
    """
    import torch

    threads = max(1, math.floor(cpus + 0.5))
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if gpus > 0 and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device, or the machine, had no memory left: torch has a type for it on a GPU, a message on a CPU."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)


def is_device_lost(error: Exception) -> bool:
    """Whether the device itself failed: a CUDA context does not come back inside its process.

    Memory comes first: "CUDA error: out of memory" leaves the context usable.
    """
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    import torch

    return isinstance(error, torch.AcceleratorError) or any(sign in str(error).lower() for sign in _LOST)
