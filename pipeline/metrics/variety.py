"""How varied images are: Vendi score, distances and MS-SSIM within a prompt, near-duplicates, nearest training image.

Vendi score: Friedman & Dieng (2023), the exponential of the entropy of the eigenvalues of the kernel matrix K / n; with
the cosine kernel these are the eigenvalues of the features' second moment: d x d numbers for a stream of any length.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.moments import Floats, Moments

_ROWS = 1024


def vendi_score(moments: Moments) -> float:
    """Effective number of different images, 1 .. n, of features of length one."""
    values = np.linalg.eigvalsh(moments.second_moment).clip(min=0)
    values = values[values > 1e-12 * values.sum()] / values.sum()
    return float(np.exp(-(values * np.log(values)).sum()))


def mean_distance(features: NDArray[np.floating]) -> float:
    """Mean of 1 - cosine over the pairs of a group (k, d) of features of length one; NaN of a single one."""
    rows = np.asarray(features, np.float64)
    count = len(rows)
    if count < 2:
        return float("nan")
    # The sum over all pairs is the squared length of the sum: no k x k matrix.
    pairs = np.square(rows.sum(axis=0)).sum() - np.square(rows).sum()
    return float(1 - pairs / (count * (count - 1)))


def nearest(features: NDArray[np.floating], others: NDArray[np.floating], *, same: bool = False) -> Floats:
    """Highest cosine of each row (n, d) with any of ``others`` (m, d); ``same``: no row meets itself."""
    found = []
    for start in range(0, len(features), _ROWS):
        similar = np.asarray(features[start : start + _ROWS] @ others.T, np.float64)
        if same:
            places = np.arange(len(similar))
            similar[places, places + start] = -1.0
        found.append(similar.max(axis=1))
    return np.concatenate(found)
