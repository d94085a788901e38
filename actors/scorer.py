"""The scorer: how well finished images go with their words, and how near they are to one another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from actors.decode import decode_image, square
from actors.errors import UserError
from actors.model_uri import resolve_model

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ScorerSettings:
    """What decides which images are kept; picklable.

    Attributes:
        model: URI of a CLIP-family model.
        allow_unsafe_models: see `actors.model_uri.resolve_model`.
        min_similarity: cosine with the words below which an image is not kept; None for none.
        dedupe: cosine of two images of a shard from which on the later is not kept; None for none.
        text: the words that count: what the image was rendered from, or what the user asked for.
    """

    model: str
    allow_unsafe_models: bool
    min_similarity: float | None
    dedupe: float | None
    text: Literal["description", "prompt"]


@dataclass(frozen=True)
class Scores:
    """Of n images: ``similarity`` (n,) cosines with their words, ``features`` (n, d) of length one."""

    similarity: NDArray[np.float32]
    features: NDArray[np.float32]


class Scorer:
    """A CLIP-family model that judges files as they are stored, not the pixels that they were made from."""

    def __init__(self, settings: ScorerSettings, device: torch.device, batch_rows: int = 64) -> None:
        """Loads the model. Raises `UserError` where it cannot be loaded or reads no words."""
        from actors.features import load_features  # Here: torch is not for drivers, which know the settings.

        self.settings, self._batch_rows = settings, batch_rows
        # Two shards may be inside one actor at once, and a fast tokenizer cannot be borrowed by two threads.
        self._lock = threading.Lock()
        model = resolve_model(settings.model, allow_unsafe=settings.allow_unsafe_models)
        self._model = load_features(model, device)
        if self._model.read(["a"]) is None:
            raise UserError(f"select.model={settings.model} reads no words: name a model of the CLIP family")

    def score(self, read: Callable[[int], bytes], images: Sequence[int], texts: Sequence[str]) -> Scores:
        """Judges images beside their texts; equal input gives equal scores, whatever else the actor has seen.

        Args:
            read: an image's file by its number.
            images: numbers.
            texts: the words of each.
        """
        with self._lock:
            return self._score(read, images, texts)

    def _score(self, read: Callable[[int], bytes], images: Sequence[int], texts: Sequence[str]) -> Scores:
        import torch

        features, words = [np.zeros((0, 0), np.float32)], [np.zeros((0, 0), np.float32)]
        for start in range(0, len(images), self._batch_rows):
            stop = start + self._batch_rows
            pixels = np.stack([square(decode_image(read(number)), self._model.side) for number in images[start:stop]])
            features.append(self._model.see(torch.from_numpy(pixels).permute(0, 3, 1, 2)).features.numpy())
            told = self._model.read(texts[start:stop])
            assert told is not None
            words.append(told.numpy())
        if len(features) == 1:
            return Scores(np.zeros(0, np.float32), features[0])
        seen, said = np.concatenate(features[1:]), np.concatenate(words[1:])
        return Scores((seen * said).sum(axis=1), seen)
