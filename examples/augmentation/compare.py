"""Does it help? ``python examples/augmentation/compare.py OUTPUT``: a classifier with and without generated digits.

A small neural network learns from 50 real digits, from these and shifted copies of them, from these and the generated
ones of OUTPUT, and from all three; five seeds each. It is tested on the 1,747 real digits that nobody has learned from.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from few_digits import few
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

SEEDS = 5


def generated(output: Path) -> tuple[np.ndarray, np.ndarray]:
    """The digits of a promptmill output as 64 numbers of 0..16, and their labels."""
    rows = pq.read_table(output / "data", columns=["image", "label"]).to_pylist()
    inks = []
    for row in rows:
        grey = Image.open(io.BytesIO(row["image"]["bytes"])).convert("L").resize((8, 8), Image.Resampling.BOX)
        inks.append(((255 - np.asarray(grey, np.float64)) / 255 * 16).ravel())
    return np.stack(inks), np.array([row["label"] for row in rows])


def shifted(data: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Copies moved by a pixel in each of four directions: what costs nothing."""
    images = data.reshape(-1, 8, 8)
    moved = [np.roll(images, by, axis).reshape(-1, 64) for axis in (1, 2) for by in (-1, 1)]
    return np.concatenate(moved), np.tile(labels, 4)


def main(output: Path) -> None:
    """Prints mean accuracy and its spread over the seeds."""
    digits = load_digits()
    known = np.zeros(len(digits.target), bool)
    known[few()] = True
    real = digits.data[known], digits.target[known]
    made, copies = generated(output), shifted(*real)
    kinds = {
        "real alone": [real],
        "real + shifted": [real, copies],
        "real + generated": [real, made],
        "real + shifted + generated": [real, copies, made],
    }
    for name, parts in kinds.items():
        data, labels = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
        found = []
        for seed in range(SEEDS):
            judge = MLPClassifier((64,), max_iter=400, random_state=seed).fit(data / 16, labels)
            found.append(judge.score(digits.data[~known] / 16, digits.target[~known]))
        print(
            f"{name}: {np.mean(found):.1%} ({min(found):.1%} to {max(found):.1%}, {SEEDS} seeds, {len(labels)} digits)"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
