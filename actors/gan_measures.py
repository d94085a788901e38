"""What is measured of a GAN while it trains; all on embeddings of the frozen encoder, of length one.

`promptmill evaluate` is for figures that one reports; these are for watching a run and choosing its best checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Between Gaussians fitted to two sets of features (n, d), (m, d): FID's formula (Heusel et al., 2017).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in float64.
    """
    a, b = first.double(), second.double()
    apart = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    one, two = torch.cov(a.T), torch.cov(b.T)
    # tr (C1 C2)^(1/2) is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric.
    values, vectors = torch.linalg.eigh(one)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ two @ root).clamp(min=0).sqrt().sum()
    return float(apart + one.trace() + two.trace() - 2 * mixed)


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


def mean_distance(pictures: Tensor) -> float:
    """Mean of 1 - cosine over the pairs of pictures (groups, k, d) within a group: how varied they are."""
    similar = pictures @ pictures.transpose(1, 2)
    count = pictures.shape[1]
    apart = 1 - (similar.sum(dim=(1, 2)) - similar.diagonal(dim1=1, dim2=2).sum(dim=1)) / (count * (count - 1))
    return float(apart.mean())


def laplacian_energy(images: Tensor) -> float:
    """Mean square of the Laplacian of images (n, 3, r, r): how sharp they are, to be put beside that of real ones."""
    kernel = images.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(3, 1, 3, 3)
    return float(F.conv2d(images, kernel, groups=3).square().mean())
