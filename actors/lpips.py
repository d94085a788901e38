"""LPIPS, the Learned Perceptual Image Patch Similarity (Zhang et al., 2018), version 0.1 with AlexNet.

Both pictures go through AlexNet's five convolutional layers (Krizhevsky, 2014). In each the channels are brought to
length one at every place; the squared differences are weighted by channel, averaged over places, and the layers added
up. The weights by channel, 1,152 numbers, lie beside this module (BSD-2-Clause, as ``torchmetrics`` carries them, but
no pickle); AlexNet's own are the user's.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from actors.errors import UserError
from actors.model_uri import resolve_model

SMALLEST = 32
"""Pixels of a side under which AlexNet's last layers have no place left."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Places of the ReLUs in torchvision's `alexnet().features`, whose names the weights have.
_TAPS = (2, 5, 8, 10, 12)


class Lpips:
    """Distances of picture pairs: 0 for equal ones, higher for less alike."""

    def __init__(self, weights: Path) -> None:
        """Loads AlexNet and the weights by channel.

        Args:
            weights: safetensors with AlexNet's convolutions under torchvision's names (``features.0.weight`` ...).

        Raises:
            UserError: no such file, or one without these tensors.
        """
        layers = [
            nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
        ]  # fmt: skip
        self._parts = [nn.Sequential(*layers[start:stop]) for start, stop in pairwise((0, *_TAPS))]
        try:
            found = load_file(weights)
            own = {name.removeprefix("features."): tensor.float() for name, tensor in found.items()}
            whole = nn.Sequential(*layers)
            whole.load_state_dict({name: own[name] for name in whole.state_dict()})
        except (OSError, KeyError, RuntimeError, SafetensorError) as error:
            raise UserError(
                f"'{weights}' is no AlexNet ({type(error).__name__}): measures.lpips wants its ImageNet weights as "
                "safetensors under torchvision's names; docs/evaluation.md has the line that converts them"
            ) from error
        heads = load_file(Path(__file__).with_name("lpips_heads.safetensors"))
        self._heads = [heads[f"layer{number}"].view(1, -1, 1, 1) for number in range(len(_TAPS))]

    @torch.inference_mode()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Of pictures (n, 3, h, w) in [0, 1], sides of `SMALLEST` pixels at least: (n,) float32."""
        both = torch.cat([first, second]).float()
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        layer = (both - mean) / std
        total = torch.zeros(len(first))
        for part, head in zip(self._parts, self._heads, strict=True):
            layer = part(layer)
            one, two = _unit(layer).chunk(2)
            total += ((one - two).square() * head).sum(dim=1).mean(dim=(1, 2))
        return total


def alexnet_file(uri: str) -> Path:
    """The local file of AlexNet's weights: a safetensors file, or a directory that holds one.

    Raises:
        UserError: it is neither.
    """
    path = resolve_model(uri, allow_unsafe=None).path
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if len(files) != 1 or files[0].suffix != ".safetensors":
        raise UserError(f"measures.lpips: '{path}' is no safetensors file and no directory with one")
    return files[0]


def _unit(features: Tensor) -> Tensor:
    length = features.square().sum(dim=1, keepdim=True).add(1e-8).sqrt()
    unit: Tensor = features / length
    return unit
