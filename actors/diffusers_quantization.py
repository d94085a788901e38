"""Weights of a `diffusers` pipeline that are quantised while they are loaded, by torchao or bitsandbytes.

A directory whose weights are quantised already says so in its own configs, and needs none of this.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch

from actors.diffusers_settings import Quantization
from actors.errors import UserError

_TORCHAO = {
    "torchao_int8": "Int8WeightOnlyConfig", "torchao_int4": "Int4WeightOnlyConfig",
    "torchao_float8": "Float8WeightOnlyConfig",
}  # fmt: skip


def quantization(
    kind: Quantization, parts: Sequence[str], index: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``from_pretrained`` is told of each part: those that diffusers loads, and those of transformers.

    Args:
        parts: names in ``model_index.json``; none = the part that runs once a step.
        index: that file.

    Raises:
        UserError: the package is not installed, no such part, or it needs a GPU.
    """
    package = kind.partition("_")[0]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"generate.diffusers.quantize={kind} needs {package}: pip install {package}")
    if package == "bitsandbytes" and device.type == "cpu":
        raise UserError(f"generate.diffusers.quantize={kind} needs a GPU: set generate.actors.gpus, or torchao_int8")
    libraries = {name: entry[0] for name, entry in index.items() if isinstance(entry, list) and entry and entry[0]}
    wanted = list(parts) or [name for name in ("transformer", "unet") if name in libraries][:1]
    missing = [name for name in wanted if name not in libraries]
    if missing or not wanted:
        raise UserError(
            f"generate.diffusers.quantize_parts: the pipeline has no part {(missing or ['transformer'])[0]!r}; it has "
            f"{', '.join(sorted(libraries))}"
        )
    theirs = {name: _config(kind, "transformers", dtype) for name in wanted if libraries[name] == "transformers"}
    return {name: _config(kind, "diffusers", dtype) for name in wanted if name not in theirs}, theirs


def _config(kind: Quantization, library: str, dtype: torch.dtype) -> Any:
    module: Any = importlib.import_module(library)
    if kind in _TORCHAO:
        how: Any = getattr(importlib.import_module("torchao.quantization"), _TORCHAO[kind])
        return module.TorchAoConfig(how())
    if kind == "bitsandbytes_8bit":
        return module.BitsAndBytesConfig(load_in_8bit=True)
    return module.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
