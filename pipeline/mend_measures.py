"""How well pictures were mended: PSNR and SSIM where pixels were to be made, beside what needs no training.

The baselines: for holes the mean colour of what is left, and Telea's inpainting (2004, OpenCV); for damaged pictures
the damaged picture itself, which came from fewer pixels by bicubic interpolation.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from actors.networks import Task


def mending(task: Task, real: Tensor, given: Tensor, made: Tensor) -> dict[str, float]:
    """PSNR in dB and SSIM of what was made and of the baselines, inside the mask, means over the pictures.

    Args:
        task: inpainting or restoration.
        real: the truth (n, 3, r, r) in [-1, 1].
        given: what G was given (n, 4, r, r).
        made: what it made (n, 3, r, r).
    """
    mask = given[:, 3:]
    found = _quality("", made, real, mask)
    if task == "inpainting":
        found |= _quality("_mean_colour", _mean_colour(given), real, mask)
        found |= _quality("_telea", _telea(given), real, mask)
    else:
        found |= _quality("_given", given[:, :3], real, mask)
    return found


def _quality(name: str, made: Tensor, real: Tensor, mask: Tensor) -> dict[str, float]:
    first, second = ((images.float().clamp(-1, 1) + 1) / 2 for images in (made, real))
    weight = mask.expand_as(first)
    error = ((first - second).square() * weight).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3))
    outcome = structural_similarity_index_measure(
        first, second, data_range=1.0, reduction="none", return_full_image=True
    )
    similar = (outcome[1] * weight).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3))
    psnr = -10 * torch.log10(error.clamp(min=1e-10))
    return {f"psnr{name}": float(psnr.mean()), f"ssim{name}": float(similar.mean())}


def _mean_colour(given: Tensor) -> Tensor:
    known = 1 - given[:, 3:]
    colour = (given[:, :3] * known).sum(dim=(2, 3), keepdim=True) / known.sum(dim=(2, 3), keepdim=True)
    return given[:, :3] * known + colour * (1 - known)


def _telea(given: Tensor) -> Tensor:
    filled = []
    for one in given.cpu():
        pixels = ((one[:3] + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 0).numpy().astype(np.uint8)
        hole = (one[3].numpy() > 0).astype(np.uint8)
        made = cv2.inpaint(np.ascontiguousarray(pixels), hole, 3, cv2.INPAINT_TELEA)
        filled.append(torch.from_numpy(made).permute(2, 0, 1).float() / 127.5 - 1)
    return torch.stack(filled)
