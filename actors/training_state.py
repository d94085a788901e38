"""The state of a training run as files: safetensors for weights and moments, JSON for the position; no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

POSITION = "position.json"


@dataclass(frozen=True)
class Position:
    """Where a run stands: ``step`` steps of ``phase`` are done. It is also the position in the data (see the docs of
    `pipeline.sample_order`)."""

    phase: str
    step: int


def write_state(
    directory: Path,
    position: Position,
    modules: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> None:
    """Writes ``NAME.safetensors`` for each module, ``optimiser-NAME.safetensors``, and ``position.json``."""
    for name, module in modules.items():
        _save(dict(module.state_dict()), directory / f"{name}.safetensors")
    for name, optimiser in optimisers.items():
        moments = {
            f"{index}/{key}": torch.as_tensor(value)
            for index, values in optimiser.state_dict()["state"].items()
            for key, value in values.items()
        }
        _save(moments, directory / f"optimiser-{name}.safetensors")
    (directory / POSITION).write_text(json.dumps(asdict(position)) + "\n")


def read_position(directory: Path) -> Position:
    """Where the run of these files stood."""
    return Position(**json.loads((directory / POSITION).read_text()))


def read_modules(directory: Path, modules: Mapping[str, nn.Module]) -> None:
    """Puts the weights back into modules of the same shapes, on whatever device they are."""
    for name, module in modules.items():
        module.load_state_dict(load_file(directory / f"{name}.safetensors"))


def read_optimisers(directory: Path, optimisers: Mapping[str, torch.optim.Optimizer]) -> None:
    """Puts the moments back; rates and other settings stay those of the optimisers given."""
    for name, optimiser in optimisers.items():
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in load_file(directory / f"optimiser-{name}.safetensors").items():
            index, _, field = key.partition("/")
            moments.setdefault(int(index), {})[field] = value
        optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    # Clones: safetensors refuses tensors that share memory or are not contiguous (channels last).
    save_file(
        {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()},
        path,
    )
