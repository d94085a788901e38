"""Linear layers on CPUs by oneDNN, weights laid out for it once, instead of by the BLAS that torch was built with.

torch's wheels multiply float32 matrices with MKL, which on AMD's processors reaches less than half of what they can do
(`docs/performance.md` has figures), and lays the weights out anew in every call. oneDNN, part of the same wheels, does
neither; in bfloat16 it gains less. torch itself uses these operators wherever it compiles a frozen model; they have no
public name.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

_ROWS = 32
"""Rows that the layout is chosen for; others run as well, a little slower at worst."""


_FORMATS = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Module):
    """A linear layer for inference; same function as the one it is made of, to the rounding of its number format."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        # Neither is a parameter: nothing trains them, and a blocked tensor cannot be saved.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()

    @property
    def weight(self) -> Tensor:
        """The weight in its usual layout; a copy, for models that ask its dtype or device."""
        dense: Tensor = self._packed.to_dense()
        return dense

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (..., in_features) to (..., out_features)."""
        made: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return made


@torch.inference_mode()
def pack_linears(model: Any) -> int:
    """Replaces a CPU model's float32 and bfloat16 linear layers, in place; the old weights' memory is given back.

    Returns:
        How many were replaced: 0 where this torch cannot, or where it computes something else.
    """
    layers = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and child.weight.dtype in _FORMATS and child.weight.device.type == "cpu"
    ]
    if not layers or not _works(layers[0][2]):
        return 0
    for parent, name, child in layers:
        setattr(parent, name, PackedLinear(child))
    return len(layers)


def _works(linear: nn.Linear) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    dtype = linear.weight.dtype
    x = torch.linspace(-1, 1, 2 * linear.in_features).reshape(1, 2, -1).to(dtype)
    try:
        made = PackedLinear(copy.deepcopy(linear))(x)
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    near = max(1e-3, 4 * torch.finfo(dtype).eps)
    return made.shape == (1, 2, linear.out_features) and torch.allclose(made, linear(x), rtol=near, atol=near)
