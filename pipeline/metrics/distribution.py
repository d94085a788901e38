"""How far a set of images is from another as distributions, and how clear and varied its classes are.

Frechet distance: FID's formula (Heusel et al., 2017). Kernel distance: KID's (Binkowski et al., 2018), the unbiased
estimate of the squared maximum mean discrepancy under the kernel (x.y / d + 1)^3. Inception Score (Salimans et al.,
2016). FID-infinity: Chong & Forsyth (2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.moments import Floats, Moments


def frechet_distance(first: Moments, second: Moments) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in float64.

    The trace of the root is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric: no
    complex numbers, and right for singular covariances too (fewer rows than dimensions).
    """
    apart = float(np.square(first.mean - second.mean).sum())
    one, two = first.covariance, second.covariance
    values, vectors = np.linalg.eigh(one)
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    mixed = float(np.sqrt(np.linalg.eigvalsh(root @ two @ root).clip(min=0)).sum())
    # Rounding may leave a distance of nothing a little below it.
    return max(0.0, apart + float(np.trace(one)) + float(np.trace(two)) - 2 * mixed)


def extrapolated(counts: Sequence[int], values: Sequence[float]) -> float:
    """The value at infinitely many images: the intercept of a line through values against 1 / n (FID-infinity).

    NaN where the counts are all the same, as they are of a handful of images: no line goes through one point.
    """
    if len(set(counts)) < 2:
        return float("nan")
    slope_and_intercept = np.polyfit(1 / np.asarray(counts, np.float64), np.asarray(values, np.float64), 1)
    return float(slope_and_intercept[1])


@dataclass(frozen=True)
class KernelDistance:
    """Kernel matrices of two sets of features, kept so that subsets cost a product and no kernel of their own."""

    within_first: Floats
    within_second: Floats
    between: Floats

    @staticmethod
    def of(first: NDArray[np.floating], second: NDArray[np.floating]) -> KernelDistance:
        """Of features (n, d) and (m, d), both at least 2 rows."""
        a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
        within = _cubic(a, a), _cubic(b, b)
        for matrix in within:
            np.fill_diagonal(matrix, 0.0)  # an image with itself says nothing: the estimate is unbiased without
        return KernelDistance(*within, _cubic(a, b))

    def value(self) -> float:
        """Of all rows."""
        ones = [np.ones((1, count), bool) for count in self.between.shape]
        return float(self.of_subsets(*ones)[0])

    def of_subsets(self, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Floats:
        """Of k subsets, (k, n) and (k, m) bool; one value each, (k,), NaN where one has fewer than two rows."""
        a, b = first.astype(np.float64), second.astype(np.float64)
        n, m = a.sum(axis=1), b.sum(axis=1)
        n, m = np.where(n < 2, np.nan, n), np.where(m < 2, np.nan, m)
        one = ((a @ self.within_first) * a).sum(axis=1) / (n * (n - 1))
        two = ((b @ self.within_second) * b).sum(axis=1) / (m * (m - 1))
        found: Floats = one + two - 2 * ((a @ self.between) * b).sum(axis=1) / (n * m)
        return found


def _cubic(first: Floats, second: Floats) -> Floats:
    found: Floats = (first @ second.T / first.shape[1] + 1) ** 3
    return found


@dataclass(frozen=True)
class ClassSums:
    """Sums over the class probabilities of a stream of images; mergeable by ``+`` of each field."""

    count: int
    probabilities: Floats
    negentropy: float

    @staticmethod
    def of(probabilities: NDArray[np.floating]) -> ClassSums:
        """Of some rows (n, classes), each summing to 1."""
        rows = np.asarray(probabilities, np.float64)
        return ClassSums(len(rows), rows.sum(axis=0), float(_plogp(rows).sum()))

    def merge(self, other: ClassSums) -> ClassSums:
        """Of both sets of rows together."""
        return ClassSums(
            self.count + other.count, self.probabilities + other.probabilities, self.negentropy + other.negentropy
        )

    def inception_score(self) -> float:
        """exp of the mean KL divergence of an image's classes from those of all: 1 .. classes."""
        marginal = self.probabilities / self.count
        return float(np.exp(self.negentropy / self.count - _plogp(marginal).sum()))


def _plogp(values: Floats) -> Floats:
    found: Floats = np.where(values > 0, values * np.log(np.where(values > 0, values, 1.0)), 0.0)
    return found
