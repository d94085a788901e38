"""Checkpoints of a training run: one safetensors file, put in place whole, no pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save_checkpoint(
    directory: Path,
    phase: str,
    step: int,
    modules: Mapping[str, nn.Module],
    optimisers: Sequence[torch.optim.Optimizer],
) -> None:
    """Writes ``PHASE.safetensors``: the modules, the optimisers' moments, and the number of steps done.

    The file is written beside its place and then renamed, so a torn write is never resumed from.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors.update({f"{name}/{key}": value.contiguous() for key, value in module.state_dict().items()})
    for number, optimiser in enumerate(optimisers):
        for index, values in optimiser.state_dict()["state"].items():
            tensors.update({f"optimiser{number}/{index}/{key}": torch.as_tensor(v) for key, v in values.items()})
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f"{phase}.tmp"
    # Clones: parameters that share storage (a module and its copy) may not be saved twice under two names.
    save_file(
        {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()},
        temporary,
        metadata={"step": str(step)},
    )
    temporary.replace(directory / f"{phase}.safetensors")


def load_checkpoint(
    directory: Path, phase: str, modules: Mapping[str, nn.Module], optimisers: Sequence[torch.optim.Optimizer]
) -> int:
    """Restores what `save_checkpoint` wrote and returns the number of steps done; 0 where there is no checkpoint."""
    path = directory / f"{phase}.safetensors"
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as stored:
        names = list(stored.keys())
        step = int(stored.metadata()["step"])
        for name, module in modules.items():
            state = {
                key.removeprefix(f"{name}/"): stored.get_tensor(key) for key in names if key.startswith(f"{name}/")
            }
            module.load_state_dict(state)
        for number, optimiser in enumerate(optimisers):
            state_dict = optimiser.state_dict()
            moments: dict[int, dict[str, Tensor]] = {}
            for key in names:
                if key.startswith(f"optimiser{number}/"):
                    _, index, field = key.split("/")
                    moments.setdefault(int(index), {})[field] = stored.get_tensor(key)
            optimiser.load_state_dict({**state_dict, "state": moments})
    return step
