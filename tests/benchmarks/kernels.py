"""The linear layers of a decoding step on CPUs, by the ways that torch has to multiply.

All of SmolLM2-135M's linear layers in a row, random weights, as many rows as a shard has. So the weights come from
memory as they do in a real step, and nothing else is in the figure.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import nn

from actors.device import use_resources
from actors.packed_linear import pack_linears
from tests.benchmarks.harness import Bench, Comparison, Contest, rate

_WIDTH, _KEYS, _INNER, _WORDS, _LAYERS = 576, 192, 1536, 49152, 30


def kernels(bench: Bench) -> Contest:
    """Rows/s through all linear layers, 64 rows at a time."""
    use_resources(2, 0)
    rows, steps = (2, 1) if bench.quick else (64, 4)
    layers = 1 if bench.quick else _LAYERS
    packed, packed_half, plain = _layers(layers), _layers(layers).to(torch.bfloat16), _layers(layers)
    pack_linears(packed)
    pack_linears(packed_half)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch tells that this way to quantise will move to another package
        narrow = torch.ao.quantization.quantize_dynamic(_layers(layers), {nn.Linear}, torch.qint8)
    half = _layers(layers).to(torch.bfloat16)

    def side(module: nn.ModuleList, dtype: torch.dtype = torch.float32) -> Callable[[], dict[str, float]]:
        inputs = {width: torch.randn(rows, width, dtype=dtype) for width in (_WIDTH, _INNER)}

        @torch.inference_mode()
        def work() -> float:
            for _ in range(steps):
                for layer in module:
                    layer(inputs[layer.in_features])
            return rows * steps

        return lambda: rate("rows", work)

    ours, usual = "oneDNN, float32, laid out once", "torch's linear, float32"
    others = {
        "oneDNN, bfloat16, laid out once": side(packed_half, torch.bfloat16),
        "torch's linear, bfloat16": side(half, torch.bfloat16),
        "int8 weights (dynamic)": side(narrow),
    }
    return Contest(
        {ours: side(packed), usual: side(plain), **others},
        [Comparison(ours, usual, "rows/s"), *(Comparison(name, ours, "rows/s") for name in others)],
        turns=5,
    )


def _layers(count: int) -> nn.ModuleList:
    """What one step multiplies with: four projections and the three of the inner layer, then the words."""
    shapes = [(_WIDTH, _WIDTH), (_WIDTH, _KEYS), (_WIDTH, _KEYS), (_WIDTH, _WIDTH), (_WIDTH, _INNER), (_WIDTH, _INNER),
              (_INNER, _WIDTH)] * count + [(_WIDTH, _WORDS)]  # fmt: skip
    return nn.ModuleList(nn.Linear(*shape, bias=False) for shape in shapes).eval()
