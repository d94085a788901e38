"""95% intervals: a bootstrap over prompts for means, seeded halves for measures of whole distributions.

Images of one prompt are not independent, so prompts are what is drawn with replacement (cluster bootstrap; Efron &
Tibshirani, 1993). A distribution metric is biased in n and breaks under repeated rows, so no bootstrap there: it is
taken on random halves, whose spread about their mean is, for means and smooth functions of them, the standard error of
the whole (delete-d jackknife with d = n / 2; Shao & Wu, 1989).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.moments import Floats

DRAWS = 1000
"""Bootstrap samples."""
HALVES = 20
"""Random halves."""
_NORMAL = 1.959963984540054
"""Of a standard normal 95% lie within this of 0."""
_CHUNK = 1 << 22


def bootstrap(sums: NDArray[np.floating], counts: NDArray[np.floating], seed: int, draws: int = DRAWS) -> Floats:
    """Means over rows when prompts are drawn with replacement, (draws,).

    Args:
        sums: (prompts,) sum of the metric over each prompt's rows.
        counts: (prompts,) rows of each; all zero in a draw gives NaN.
        seed: of the draws.
        draws: how many.
    """
    generator, size = np.random.default_rng(seed), len(sums)
    a, b = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    found, step = [], max(1, _CHUNK // max(1, size))
    for start in range(0, draws, step):
        chosen = generator.integers(0, size, (min(step, draws - start), size))
        found.append(a[chosen].sum(axis=1) / b[chosen].sum(axis=1))
    return np.concatenate(found)


def percentiles(values: NDArray[np.floating]) -> tuple[float, float]:
    """The middle 95% of bootstrap values."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class ByPrompt:
    """A metric that is a mean over rows: ``sums`` and ``counts`` of each prompt, in the order of ``prompts``."""

    prompts: Sequence[str]
    sums: Floats
    counts: Floats

    @staticmethod
    def of(prompts: Sequence[str], values: NDArray[np.floating]) -> ByPrompt:
        """Of one value a row; rows without one (NaN) are left out."""
        sums: dict[str, list[float]] = {}
        for prompt, value in zip(prompts, np.asarray(values, np.float64).tolist(), strict=True):
            if not math.isnan(value):
                found = sums.setdefault(prompt, [0.0, 0.0])
                found[0] += value
                found[1] += 1
        pairs = np.array(list(sums.values()), np.float64).reshape(-1, 2)
        return ByPrompt(list(sums), pairs[:, 0], pairs[:, 1])

    @property
    def count(self) -> int:
        """Rows."""
        return int(self.counts.sum())

    @property
    def value(self) -> float:
        """The mean over rows; NaN without any."""
        return float(self.sums.sum() / self.counts.sum()) if len(self.sums) else float("nan")

    def interval(self, seed: int) -> tuple[float, float]:
        """95%, over prompts."""
        return percentiles(bootstrap(self.sums, self.counts, seed))

    def difference(self, other: ByPrompt, seed: int) -> tuple[float, float, float, int]:
        """other - self over the prompts that both have, paired: value, interval, and the number of prompts."""
        place = {prompt: number for number, prompt in enumerate(other.prompts)}
        pairs = [(number, place[prompt]) for number, prompt in enumerate(self.prompts) if prompt in place]
        if not pairs:
            return float("nan"), float("nan"), float("nan"), 0
        mine, theirs = (np.array(side) for side in zip(*pairs, strict=True))
        # One seed: the same prompts are drawn on both sides.
        drawn = [bootstrap(one.sums[rows], one.counts[rows], seed) for one, rows in ((self, mine), (other, theirs))]
        means = [one.sums[rows].sum() / one.counts[rows].sum() for one, rows in ((self, mine), (other, theirs))]
        low, high = percentiles(drawn[1] - drawn[0])
        return float(means[1] - means[0]), low, high, len(pairs)


@dataclass(frozen=True)
class Whole:
    """A metric of a whole distribution of ``count`` rows: its value, and that of seeded halves."""

    value: float
    of_halves: Floats
    count: int

    def interval(self, seed: int) -> tuple[float, float]:
        """95%, by the halves."""
        return around(self.value, self.of_halves)

    def difference(self, other: Whole, seed: int) -> tuple[float, float, float, int]:
        """other - self, where halves of the same number hold the same prompts and references: value, interval, rows."""
        value = other.value - self.value
        return value, *around(value, other.of_halves - self.of_halves), min(self.count, other.count)


Figure = ByPrompt | Whole


def halves(size: int, seed: int, count: int = HALVES) -> NDArray[np.bool_]:
    """(count, size) bool: random halves, each with ``size // 2`` rows."""
    generator = np.random.default_rng(seed)
    order = generator.random((count, size)).argsort(axis=1)
    return order < size // 2


def around(value: float, of_halves: Sequence[float] | Floats) -> tuple[float, float]:
    """The interval about a value whose halves gave ``of_halves``; NaN where fewer than two of them are finite."""
    found = np.asarray(of_halves, np.float64)
    found = found[np.isfinite(found)]
    reach = _NORMAL * float(found.std(ddof=1)) if len(found) > 1 else math.nan
    return value - reach, value + reach
