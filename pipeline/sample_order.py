"""The order of training samples: a pure function of (seed, epoch), whatever the number of workers.

The samples of an epoch are the table's rows (each as often as its weight says), shuffled: fragments first, then rows
within a fragment, so that a table larger than memory is still read piece by piece. The order is cut into `lanes`, equal
contiguous ranges; a global batch takes the same number of samples from each lane, and a worker serves a run of lanes.
So the batch of step s is the same for 1 worker and for 8, a worker reads little more than its share of the files, and a
position in the stream is one number: training resumed at a step repeats and skips nothing. Lanes flow on from epoch
to epoch; no remainder is ever dropped.

The shuffle inside a lane is over a window of positions, so neighbours of one fragment are parted (the shuffle buffer of
WebDataset and tf.data, made exact).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from actors.errors import UserError
from actors.seeds import derive_seed

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Pick:
    """One sample of a step: which row of which fragment, in which epoch; ``sample`` counts all samples of the run."""

    fragment: int
    row: int
    epoch: int
    sample: int


@dataclass(frozen=True, eq=False)  # the caches below go by identity: hashing a million weights is not free
class SampleOrder:
    """Where each sample of a training phase comes from.

    Args:
        rows: rows of each fragment.
        weights: for each fragment its rows' weights, or None where all are 1; an epoch holds a row ``weight`` times on
            average (systematic resampling: the number of samples in an epoch is always the rounded sum).
        batch: samples in a global step.
        lanes: ranges that a batch is drawn from; the number of workers must divide it.
        window: samples of one lane that are shuffled together.
        seed: decides the order.

    Raises:
        UserError: the batch is no multiple of the lanes, or there are fewer samples than lanes.
    """

    rows: tuple[int, ...]
    weights: tuple[tuple[float, ...] | None, ...]
    batch: int
    lanes: int
    window: int
    seed: int

    def __post_init__(self) -> None:
        if self.batch % self.lanes:
            raise UserError(
                f"a batch of {self.batch} cannot be drawn evenly from data.lanes={self.lanes}: take a multiple of it"
            )
        if self.epoch_samples < self.lanes:
            raise UserError(
                f"the table has {self.epoch_samples} samples, fewer than data.lanes={self.lanes}; lower data.lanes"
            )

    @property
    def epoch_samples(self) -> int:
        """Samples in an epoch: the sum of the rows' weights, rounded."""
        return _epoch_samples(self.rows, self.weights)

    def worker_lanes(self, rank: int, workers: int) -> range:
        """The lanes that worker ``rank`` of ``workers`` serves. Raises `UserError` where they cannot be shared out."""
        if self.lanes % workers:
            raise UserError(
                f"{workers} workers cannot share data.lanes={self.lanes}; set it to a multiple of the number of workers"
            )
        share = self.lanes // workers
        return range(rank * share, (rank + 1) * share)

    def picks(self, first: int, steps: int, lanes: Sequence[int]) -> list[list[Pick]]:
        """For each of ``steps`` steps from ``first`` on the samples of the given lanes, in order of lane."""
        each = self.batch // self.lanes
        found: list[list[Pick]] = [[] for _ in range(steps)]
        for lane in lanes:
            low = self._lane(lane)[0]
            size = self._lane(lane)[1] - low
            held: tuple[int, int] | None = None
            for place in range(first * each, (first + steps) * each):
                epoch, offset = divmod(place, size)
                if held != (epoch, offset // self.window):
                    held = (epoch, offset // self.window)
                    shuffled = self._shuffled(lane, *held)
                step, number = divmod(place, each)
                fragment, row = shuffled[offset % self.window].tolist()
                sample = step * self.batch + lane * each + number
                found[step - first].append(Pick(fragment, row, epoch, sample))
        return found

    def _lane(self, lane: int) -> tuple[int, int]:
        total = self.epoch_samples
        return lane * total // self.lanes, (lane + 1) * total // self.lanes

    def _shuffled(self, lane: int, epoch: int, window: int) -> Rows:
        low, high = self._lane(lane)
        return _window(self, lane, epoch, window, low + window * self.window, high)


@lru_cache(maxsize=256)
def _window(order: SampleOrder, lane: int, epoch: int, window: int, low: int, high: int) -> Rows:
    """(n, 2) fragments and rows of one window of a lane, shuffled."""
    rows = _epoch_order(order, epoch)[low : min(low + order.window, high)]
    return _generator(order.seed, "window", epoch, lane, window).permutation(rows)


@lru_cache(maxsize=2)
def _epoch_order(order: SampleOrder, epoch: int) -> Rows:
    """(n, 2) fragments and rows of a whole epoch: fragments shuffled, rows shuffled within each."""
    parts = _draw(order, epoch)
    numbers = _generator(order.seed, "fragments", epoch).permutation(len(parts))
    shuffled = []
    for number in numbers.tolist():
        rows = _generator(order.seed, "rows", epoch, number).permutation(parts[number])
        shuffled.append(np.stack([np.full(len(rows), number, np.int64), rows], axis=1))
    return np.concatenate(shuffled)


def _draw(order: SampleOrder, epoch: int) -> list[Rows]:
    """For each fragment its rows, as often as they come in this epoch."""
    if all(weights is None for weights in order.weights):
        return [np.arange(rows, dtype=np.int64) for rows in order.rows]
    # Systematic resampling: equally spaced points over the cumulated weights, from a random start.
    weights = np.concatenate(
        [np.ones(rows) if w is None else np.asarray(w) for rows, w in zip(order.rows, order.weights, strict=True)]
    )
    ends = np.cumsum(weights)
    samples = order.epoch_samples
    start = _generator(order.seed, "weights", epoch).random()
    chosen = np.searchsorted(ends, (np.arange(samples) + start) * (ends[-1] / samples), side="right")
    # Rounding may put the last point past the end.
    chosen = np.minimum(chosen, len(weights) - 1)
    bounds = np.cumsum([0, *order.rows])
    cuts = np.searchsorted(chosen, bounds)
    return [
        (chosen[low:high] - bound).astype(np.int64)
        for low, high, bound in zip(cuts[:-1], cuts[1:], bounds[:-1], strict=True)
    ]


@lru_cache(maxsize=8)
def _epoch_samples(rows: tuple[int, ...], weights: tuple[tuple[float, ...] | None, ...]) -> int:
    return round(math.fsum(n if w is None else math.fsum(w) for n, w in zip(rows, weights, strict=True)))


def _generator(seed: int, *names: str | int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *names)))
