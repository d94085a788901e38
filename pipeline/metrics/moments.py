"""Mean and covariance of a stream of features, mergeable: memory does not grow with the rows, nor does order matter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Of ``count`` features: ``mean`` (d,) and ``scatter`` (d, d), the sum of outer products about the mean; float64.

    Merged by Chan, Golub & LeVeque's update (1983), so that any partition of the rows gives the same to rounding.
    """

    count: int
    mean: Floats
    scatter: Floats

    @staticmethod
    def of(features: NDArray[np.floating]) -> Moments:
        """Of some rows (n, d), n at least 1; finite."""
        rows = np.asarray(features, np.float64)
        mean = rows.mean(axis=0)
        centred = rows - mean
        return Moments(len(rows), mean, centred.T @ centred)

    @staticmethod
    def merged(parts: Iterable[Moments]) -> Moments:
        """Of all rows of all parts, of which there is at least one."""
        return reduce(Moments.merge, parts)

    def merge(self, other: Moments) -> Moments:
        """Of both sets of rows together."""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        scatter = self.scatter + other.scatter + np.outer(apart, apart) * (self.count * other.count / count)
        return Moments(count, mean, scatter)

    @property
    def covariance(self) -> Floats:
        """(d, d), unbiased; zeros of a single row."""
        covariance: Floats = self.scatter / max(1, self.count - 1)
        return covariance

    @property
    def second_moment(self) -> Floats:
        """(d, d): the mean of outer products about zero."""
        moment: Floats = self.scatter / self.count + np.outer(self.mean, self.mean)
        return moment
