"""Do images match their words: cosine similarity, CLIPScore, R-precision. All on embeddings of length one.

CLIPScore: Hessel et al. (2021) in the form that torchmetrics and most papers print, 100 * max(cosine, 0). R-precision:
Xu et al. (AttnGAN, 2018): how often an image's own words are nearest to it among others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.moments import Floats

_ROWS = 1024


def similarity(images: NDArray[np.floating], words: NDArray[np.floating]) -> Floats:
    """Cosine of each image (n, d) with its words (n, d); (n,)."""
    found: Floats = (np.asarray(images, np.float64) * np.asarray(words, np.float64)).sum(axis=1)
    return found


def clip_score(similarities: NDArray[np.floating]) -> Floats:
    """100 * max(cosine, 0), one value an image."""
    found: Floats = 100 * np.clip(similarities, 0, None)
    return found


def right_of_all(
    images: NDArray[np.floating], words: NDArray[np.floating], text: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Whether each image is nearer to its own words than to all other words, (n,) bool.

    Args:
        images: (n, d).
        words: (t, d), each text once.
        text: (n,) which of ``words`` is each image's own.
    """
    found = []
    for start in range(0, len(images), _ROWS):
        similar = images[start : start + _ROWS] @ words.T
        own = text[start : start + _ROWS]
        right = np.take_along_axis(similar, own[:, None], axis=1)
        np.put_along_axis(similar, own[:, None], -2.0, axis=1)
        found.append(right[:, 0] > similar.max(axis=1))
    return np.concatenate(found)


def right_of_some(
    images: NDArray[np.floating], words: NDArray[np.floating], text: NDArray[np.intp], seed: int, count: int = 100
) -> NDArray[np.bool_]:
    """Whether each image is nearer to its own words than to ``count`` - 1 other texts drawn by ``seed``, (n,) bool.

    Each image meets its own draw, without repetition; all others where there are fewer. Arguments as in `right_of_all`.
    """
    others = min(count - 1, len(words) - 1)
    generator, found = np.random.default_rng(seed), []
    for start in range(0, len(images), _ROWS):
        part, own = images[start : start + _ROWS], text[start : start + _ROWS]
        # Texts but one's own are numbered without a gap: those from one's own on move up by one.
        chosen = _draws(generator, len(part), len(words) - 1, others)
        chosen += chosen >= own[:, None]
        against = np.einsum("nd,nkd->nk", part, words[chosen])
        found.append((part * words[own]).sum(axis=1) > against.max(axis=1, initial=-2.0))
    return np.concatenate(found)


def _draws(generator: np.random.Generator, rows: int, size: int, count: int) -> NDArray[np.intp]:
    """(rows, count) numbers below ``size``, none twice in a row."""
    if size <= 4 * count:
        return generator.random((rows, size)).argsort(axis=1)[:, :count]
    # Few of many: draw with repetition and mend the rows that have one.
    chosen = generator.integers(0, size, (rows, count))
    while True:
        ordered = np.sort(chosen, axis=1)
        doubled = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
        if not doubled.any():
            return chosen
        chosen[doubled] = generator.integers(0, size, (int(doubled.sum()), count))
