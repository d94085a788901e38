"""The image-text encoder's objective: softmax contrast with several positives, over the batches of all workers.

CLIP (Radford et al., 2021) has one positive a row. Here a caption may be true of several pictures of the batch (as
"face" is), so the loss is that of supervised contrastive learning (Khosla et al., 2020, L_out): with p(j|i) the softmax
of the scaled similarities of picture i to all words, and P(i) its positives,

    L = - mean_i 1/|P(i)| sum_{j in P(i)} log p(j|i),   and the same from words to pictures; the mean of both.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def contrastive_loss(images: Tensor, words: Tensor, positive: Tensor, scale: Tensor) -> Tensor:
    """L of the module.

    Args:
        images: (n, d) embeddings, normalised here.
        words: (n, d) embeddings; row i belongs to picture i.
        positive: (n, n) bool, [picture, words]; the diagonal is true.
        scale: () what the cosines are multiplied with.
    """
    logits = scale * F.normalize(images, dim=1) @ F.normalize(words, dim=1).T
    return 0.5 * (_cross_entropy(logits, positive) + _cross_entropy(logits.T, positive.T))


def _cross_entropy(logits: Tensor, positive: Tensor) -> Tensor:
    target = positive.float()
    return -(F.log_softmax(logits, dim=1) * target).sum(dim=1).div(target.sum(dim=1)).mean()
