"""What is measured of a GAN while it trains, beside what `pipeline.metrics` has.

`promptmill evaluate` is for figures that one reports; these are for watching a run and choosing its best checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def r_precision(pictures: Tensor, words: Tensor, positive: Tensor, seed: int, count: int = 100) -> float:
    """Share of pictures that are nearer to their own words than to ``count`` - 1 others (Xu et al., AttnGAN, 2018).

    Args:
        pictures: (n, d); row i was made for row i of ``words``.
        words: (m, d), m at least n.
        positive: (n, m) bool, [picture, words]: words that are true of a picture as well are no wrong answers.
        seed: chooses the others.
        count: words to choose from; fewer where there are not as many.
    """
    similar = pictures @ words.T
    chance = torch.rand(similar.shape, generator=torch.Generator().manual_seed(seed)).to(similar.device)
    chance = chance.masked_fill(positive, -1.0)
    chosen = chance.topk(min(count - 1, len(words) - 1), dim=1)
    others = similar.gather(1, chosen.indices).masked_fill(chosen.values < 0, -2.0)
    return float((similar.diagonal() > others.max(dim=1).values).float().mean())


def laplacian_energy(images: Tensor) -> float:
    """Mean square of the Laplacian of images (n, 3, r, r): how sharp they are, to be put beside that of real ones."""
    kernel = images.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(3, 1, 3, 3)
    return float(F.conv2d(images, kernel, groups=3).square().mean())
