"""How near an image is to another: PSNR, SSIM (Wang et al., 2004) and MS-SSIM (Wang et al., 2003), by torchmetrics."""

from __future__ import annotations

import torch
from torch import Tensor

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW = 11


def scales(side: int) -> int:
    """Scales of MS-SSIM that images of a side allow: five from 176 pixels on, fewer below, none under 22."""
    count = 0
    while count < len(_WEIGHTS) and side >> count >= _WINDOW:
        count += 1
    return count if count > 1 else 0


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Of images (n, 3, h, w) in [0, 1]: dB, (n,); 100 where they are equal."""
    error = (first.double() - second.double()).square().flatten(1).mean(dim=1)
    return -10 * torch.log10(error.clamp(min=1e-10))


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Of images (n, 3, h, w) in [0, 1]: (n,), 1 where they are equal."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    found = structural_similarity_index_measure(first.double(), second.double(), data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found.reshape(-1)


def ms_ssim(first: Tensor, second: Tensor) -> Tensor | None:
    """Of images (n, 3, h, w) in [0, 1]: (n,); None where they are too small for two scales.

    Images under 176 pixels have the first weights of five, made to sum to one: name the scales beside the value.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    count = scales(min(first.shape[-2:]))
    if not count:
        return None
    weights = tuple(weight / sum(_WEIGHTS[:count]) for weight in _WEIGHTS[:count])
    found: Tensor = multiscale_structural_similarity_index_measure(
        first.double(), second.double(), data_range=1.0, betas=weights, normalize="relu", reduction="none"
    )
    return found.reshape(-1)
