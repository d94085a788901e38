"""Fidelity and coverage apart: improved precision and recall, density and coverage, by nearest neighbours.

Improved precision/recall: Kynkaanniemi et al. (2019), a set's manifold is the union of balls around its points that
reach to their k-th neighbour. Density/coverage: Naeem et al. (2020). Both grow quadratic, so they are taken on seeded
subsets; values depend on the subset's size and are comparable at equal sizes only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.moments import Floats


@dataclass(frozen=True)
class Neighbourhoods:
    """Euclidean distances among real, among generated, and from real (rows) to generated (columns)."""

    real: Floats
    made: Floats
    between: Floats

    @staticmethod
    def of(real: NDArray[np.floating], made: NDArray[np.floating]) -> Neighbourhoods:
        """Of features (n, d) and (m, d)."""
        a, b = np.asarray(real, np.float64), np.asarray(made, np.float64)
        return Neighbourhoods(_distances(a, a), _distances(b, b), _distances(a, b))

    def subset(self, real: NDArray[np.bool_], made: NDArray[np.bool_]) -> Neighbourhoods:
        """Of some rows of each."""
        return Neighbourhoods(
            self.real[np.ix_(real, real)], self.made[np.ix_(made, made)], self.between[np.ix_(real, made)]
        )

    def measures(self, k: int = 5) -> dict[str, float]:
        """``precision``, ``recall``, ``density``, ``coverage``; all NaN where a set has no more than ``k`` rows."""
        if min(self.between.shape) <= k:
            return dict.fromkeys(("precision", "recall", "density", "coverage"), float("nan"))
        real, made = _kth(self.real, k), _kth(self.made, k)
        inside = self.between < real[:, None]
        return {
            "precision": float(inside.any(axis=0).mean()),
            "recall": float((self.between < made[None, :]).any(axis=1).mean()),
            "density": float(inside.sum(axis=0).mean() / k),
            "coverage": float((self.between.min(axis=1) < real).mean()),
        }


def _distances(first: Floats, second: Floats) -> Floats:
    squares = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1)[None, :]
    found: Floats = np.sqrt((squares - 2 * first @ second.T).clip(min=0))
    return found


def _kth(distances: Floats, k: int) -> Floats:
    """Distance of each point to its k-th neighbour; the point itself, at distance 0, is number 0."""
    found: Floats = np.partition(distances, k, axis=1)[:, k]
    return found
