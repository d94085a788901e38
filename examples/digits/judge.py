"""Reads rendered digits with a classifier of its own: ``python examples/digits/judge.py OUT/model``.

An RBF support vector machine, trained on the held-out real digits that the GAN has never seen, reads 100 pictures of
each of the ten digits; half are asked for in English, half in Chinese.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from prepare import CHINESE, ENGLISH
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from actors.backend_gan import GanBackend
from actors.contracts import ImageJob
from actors.errors import RowError

EACH = 100


def ink(pixels: np.ndarray) -> np.ndarray:
    """A picture (16, 16, 3) uint8 as 64 numbers of 0..16, the way scikit-learn has them."""
    grey = Image.fromarray(pixels).convert("L").resize((8, 8), Image.Resampling.BOX)
    return ((255 - np.asarray(grey, np.float64)) / 255 * 16).ravel()


def read_back(model: Path) -> dict[str, float]:
    """Share of digits read as asked, by language, and the classifier's own accuracy on the GAN's training digits."""
    digits = load_digits()
    held_out = np.arange(len(digits.target)) % 5 == 0
    judge = SVC(C=10.0, gamma=0.001).fit(digits.data[held_out], digits.target[held_out])
    backend = GanBackend(model, torch.device("cpu"))
    found = {"classifier": float(judge.score(digits.data[~held_out], digits.target[~held_out]))}
    names = {"en": [f"the digit {name}" for name in ENGLISH], "zh": [f"数字{sign}" for sign in CHINESE]}
    for language, captions in names.items():
        jobs = [
            ImageJob(f"{digit}-{number}", caption, None, digit * 1000 + number, None, None)
            for digit, caption in enumerate(captions)
            for number in range(EACH // 2)
        ]
        made = np.stack([ink(pixels) for pixels in backend.render(jobs)])
        wanted = np.repeat(np.arange(10), EACH // 2)
        found[language] = float((judge.predict(made) == wanted).mean())
    return found


if __name__ == "__main__":
    try:
        for name, share in read_back(Path(sys.argv[1])).items():
            print(f"{name}: {share:.1%}")
    except RowError as error:
        sys.exit(f"judge: {error.detail}")
