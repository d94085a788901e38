"""Small changes of training pictures whose size is known: where the thing stands, how large, how warm its colours.

The draws are standard normals. An encoder is trained to look through them; G is given them as the first part of z, so
that z moves, scales and tints what the words name, and is taught to by examples rather than by luck.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from actors.seeds import derive_seed

DRAWS = 7
"""Normals a picture: shift across, shift down, size, turn, brightness, warmth, mirror (its sign)."""


@dataclass(frozen=True)
class Augmentation:
    """Strengths: what one deviation does. ``flip`` only where left and right mean nothing (no text, no flags)."""

    shift: float = 0.03
    scale: float = 0.06
    turn: float = 4.0
    brightness: float = 0.05
    warmth: float = 0.04
    flip: bool = False


def draw(seed: int, samples: Tensor, count: int = DRAWS) -> Tensor:
    """(n, count) standard normals; a sample's depend on seed and its number alone."""
    rows = [
        torch.randn(count, generator=torch.Generator().manual_seed(derive_seed(seed, "augment", number)))
        for number in samples.tolist()
    ]
    return torch.stack(rows)


def augment(images: Tensor, draws: Tensor, strength: Augmentation) -> Tensor:
    """Images (n, 3, h, w) in [-1, 1] and draws (n, 7) -> images; the border goes on where the picture moved away.

    Draws are cut at two deviations, so that no picture leaves its frame.
    """
    draws = draws.clamp(-2, 2)
    across, down = (draws[:, index] * 2 * strength.shift for index in (0, 1))
    size = torch.exp(-draws[:, 2] * strength.scale)
    angle = draws[:, 3] * math.radians(strength.turn)
    mirror = torch.where(draws[:, 6] > 0, 1.0, -1.0) if strength.flip else torch.ones_like(angle)
    cosine, sine = torch.cos(angle) * size, torch.sin(angle) * size
    rows = torch.stack([cosine * mirror, -sine, -across, sine * mirror, cosine, -down], dim=1)
    grid = F.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    # Bilinear sampling would leave small pictures less than half of their sharpness (0.45 of the Laplacian energy of
    # 64x64 emoji, bicubic 0.65), and what learns from such pictures draws no sharper ones.
    moved = F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)
    # White stays white: light is taken away and never added, so backgrounds are not tinted into something new.
    dark = (moved - 1) / 2
    gain = (1 + draws[:, 4] * strength.brightness).view(-1, 1, 1, 1)
    warm = (draws[:, 5] * strength.warmth).view(-1, 1, 1) * torch.tensor([-1.0, 0.0, 1.0], device=images.device).view(
        1, 3, 1
    )
    tinted: Tensor = (dark * (gain + warm.unsqueeze(-1)) * 2 + 1).clamp(-1, 1)
    return tinted.contiguous(memory_format=torch.channels_last)
