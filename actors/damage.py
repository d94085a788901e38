"""What a picture is turned into before G mends it: holes for inpainting, blur, fewer pixels and noise for restoration.

A sample's damage depends on seed and sample number alone. What comes out is what `GanGenerator` is given: (n, 4, r, r),
RGB in [-1, 1] with 0 in the holes, and a mask that is 1 where pixels are to be made.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from actors.augment import draw
from actors.networks import Task

_DRAWS = 12


def damage(task: Task, images: Tensor, seed: int, samples: Tensor) -> Tensor:
    """Damages pictures (n, 3, r, r) for a task other than ``words``."""
    # Uniform in 0..1 out of normals, by sample number.
    chance = (0.5 * (1 + torch.erf(draw(seed, samples, _DRAWS) / 2**0.5))).to(images.device)
    if task == "inpainting":
        return with_holes(images, holes(chance, images.shape[-1]))
    return degraded(images, chance, draw(seed + 1, samples, images[0].numel()).to(images.device))


def with_holes(images: Tensor, mask: Tensor, *, keep: bool = False) -> Tensor:
    """Pictures (n, 3, r, r) and masks (n, 1, r, r), 1 = to be made -> (n, 4, r, r).

    ``keep`` leaves what is under the mask: a damaged picture is mended, not made anew.
    """
    return torch.cat([images if keep else images * (1 - mask), mask], dim=1)


def holes(chance: Tensor, side: int) -> Tensor:
    """Two boxes or ellipses a picture from uniform numbers (n, 12): each a fifth to a half of the side long."""
    axis = (torch.arange(side, device=chance.device) + 0.5) / side
    mask = chance.new_zeros(len(chance), side, side)
    for first in (0, 6):
        x, y, width, height, round_, there = chance[:, first : first + 6, None, None].unbind(dim=1)
        across = (axis[None, None, :] - (0.2 + 0.6 * x)).abs() / (0.1 + 0.15 * width)
        down = (axis[None, :, None] - (0.2 + 0.6 * y)).abs() / (0.1 + 0.15 * height)
        box = torch.maximum(across, down)
        inside = torch.where(round_ < 0.5, box, (across.square() + down.square()).sqrt()) < 1
        # The first hole is always there, the second in half of the pictures.
        mask = torch.maximum(mask, (inside & ((there < 0.5) | (first == 0))).float())
    return mask[:, None]


def degraded(images: Tensor, chance: Tensor, noise: Tensor) -> Tensor:
    """Pictures blurred, reduced to a half or a quarter, made noisy, and brought back to size (bicubic)."""
    side = images.shape[-1]
    blurred = torch.stack([_blur(image, sigma) for image, sigma in zip(images, chance[:, 0].tolist(), strict=True)])
    half, quarter = (
        F.interpolate(
            F.interpolate(blurred, scale_factor=1 / factor, mode="area"), size=(side, side), mode="bicubic",
            align_corners=False,
        )
        for factor in (2, 4)
    )  # fmt: skip
    small = torch.where(chance[:, 1].view(-1, 1, 1, 1) < 0.5, half, quarter)
    loud = 0.1 * chance[:, 2].view(-1, 1, 1, 1)
    found = (small + loud * noise.view_as(images)).clamp(-1, 1)
    return torch.cat([found, torch.ones_like(found[:, :1])], dim=1)


def _blur(image: Tensor, sigma: float) -> Tensor:
    """A Gaussian of 7 taps, its deviation 0.3 + ``sigma`` pixels; (3, r, r)."""
    taps = torch.arange(-3.0, 4.0, device=image.device)
    weights = torch.exp(-taps.square() / (2 * (0.3 + sigma) ** 2))
    weights = (weights / weights.sum()).to(image.dtype)
    padded = F.pad(image[None], (3, 3, 3, 3), mode="replicate")
    across = F.conv2d(padded, weights.view(1, 1, 1, 7).expand(3, 1, 1, 7), groups=3)
    return F.conv2d(across, weights.view(1, 1, 7, 1).expand(3, 1, 7, 1), groups=3)[0]
