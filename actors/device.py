"""Where a model runs inside its actor: the device and the thread count follow the actor's resources."""

from __future__ import annotations

import math
import os

import torch


def use_resources(cpus: float, gpus: float) -> torch.device:
    """Pins torch's threads to the actor's CPUs and returns the device that its GPUs allow.

    Args:
        cpus: CPUs that Ray reserved for the actor; half a one or more counts as a thread, and there is always one.
        gpus: GPUs that Ray reserved; 0 means the CPU even where the machine has a GPU.
    """
    threads = max(1, math.floor(cpus + 0.5))
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if gpus > 0 and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")
