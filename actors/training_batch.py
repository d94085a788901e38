"""What a training step is given: pictures, words, and who is whose positive."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TrainingBatch:
    """One worker's share of a global step; n samples.

    Attributes:
        image: (n, h, w, 3) uint8.
        tokens: (n, t) int64, padded with the tokenizer's padding.
        caption: (n,) int64, a hash of the caption that ``tokens`` hold.
        own: (n, k) int64, hashes of all captions of the picture; 0 fills up.
        sample: (n,) int64, the sample's number in the run: the same for any number of workers.
    """

    image: Tensor
    tokens: Tensor
    caption: Tensor
    own: Tensor
    sample: Tensor

    def to(self, device: torch.device) -> TrainingBatch:
        """The same on another device."""
        return TrainingBatch(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})


def unit_images(image: Tensor) -> Tensor:
    """uint8 (n, h, w, 3) -> float32 (n, 3, h, w) in [-1, 1], channels last in memory."""
    return (image.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def positives(caption: Tensor, own: Tensor) -> Tensor:
    """Which words are true of which pictures: (m,) hashes against (n, k) sets -> (n, m) bool, [picture, words].

    Two pictures of one caption ("face") are positives of one another: to call them negatives would teach nonsense.
    """
    return (own[:, None, :] == caption[None, :, None]).any(dim=2)
