"""Features of tables of images through Ray Data: an actor pool, one task a fragment, results straight to the store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray

from actors.decode import MAX_PIXELS, decode_image, square
from actors.device import use_resources
from actors.features import FeatureExtractor, load_features
from actors.loading import loading
from actors.model_uri import resolve_model
from actors.own_thread import OwnThread
from pipeline.config_running import Actors
from pipeline.feature_table import FeatureRows, FeatureTable
from pipeline.graph import pool, whole_blocks
from pipeline.image_table import ImageRow, ImageTable
from pipeline.metrics.paired import ms_ssim
from pipeline.pair import PairComparer, Pairing

_CALL_TEXTS = 256
_PAIRS = "pairs"


@dataclass(frozen=True)
class Extraction:
    """A table of images, where its features go, and the images of one prompt that MS-SSIM compares."""

    images: ImageTable
    features: FeatureTable
    within: int = 0


@dataclass(frozen=True)
class ExtractSettings:
    """All that an extracting actor needs; picklable.

    ``tables`` by the name that a fragment's task gives; ``pairs`` where images are compared with a truth too.
    """

    tables: Mapping[str, Extraction]
    pairs: Pairing | None
    model: str
    allow_unsafe: bool
    batch_rows: int
    cpus: float
    gpus: float


class ExtractStage:
    """Reads a fragment's images, extracts or compares, writes the part: no features in Ray's object store."""

    def __init__(self, settings: ExtractSettings) -> None:
        self._settings = settings
        model = resolve_model(settings.model, allow_unsafe=settings.allow_unsafe)
        self._thread = OwnThread()
        with loading():
            device = use_resources(settings.cpus, settings.gpus)
            self._model = self._thread(load_features, model, device)
        self._comparer = PairComparer(settings.pairs) if settings.pairs is not None else None

    def __call__(self, block: pa.Table) -> pa.Table:
        """Rows of (table, part) -> (table, rows, skipped)."""
        return self._thread(self._told, block)

    def _told(self, block: pa.Table) -> pa.Table:
        told = []
        for task in block.to_pylist():
            rows, skipped = self._write(task["table"], task["part"])
            told.append({"table": task["table"], "rows": rows, "skipped": skipped})
        return pa.Table.from_pylist(told)

    def _write(self, table: str, part: int) -> tuple[int, int]:
        if table == _PAIRS and self._comparer is not None:
            return self._comparer.write(part)
        own = self._settings.tables[table]
        images = own.images.read(part)
        rows = extract(self._model, images, self._settings.batch_rows, own.within, own.images.table.max_pixels)
        # A second writer found the same numbers: whoever was first is right.
        own.features.store.create(own.features.name(part), rows.encode())
        return len(rows.ids), len(rows.skipped)


def extract(
    model: FeatureExtractor, rows: Sequence[ImageRow], batch_rows: int, within: int = 0, max_pixels: int = MAX_PIXELS
) -> FeatureRows:
    """Features of some rows, in order; a row that has none is counted, with the reason.

    Args:
        model: the extractor.
        rows: images, and what is said of them.
        batch_rows: images that one call takes.
        within: images of one prompt that MS-SSIM compares; fewer than 2 for none.
        max_pixels: of an image; larger ones are not decoded.
    """
    kept: list[ImageRow] = []
    skipped: dict[str, str] = {}
    features: list[NDArray[np.float32]] = []
    classes: list[NDArray[np.float32]] = []
    shown: dict[str, list[NDArray[np.uint8]]] = defaultdict(list)
    for start in range(0, len(rows), batch_rows):
        whole, pixels = [], []
        for row in rows[start : start + batch_rows]:
            try:
                if row.image is None:
                    raise ValueError(row.reason)
                picture = decode_image(row.image, max_pixels)
            except ValueError as error:
                skipped[row.id] = row.reason if row.image is None else f"not decodable: {error}"[:80]
                continue
            whole.append(row)
            pixels.append(square(picture, model.side))
            if len(shown[row.group]) < within:
                # At its own size, not the model's: MS-SSIM is of pixels.
                shown[row.group].append(square(picture, min(picture.size)))
        if not whole:
            continue
        seen = model.see(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))
        finite = seen.features.isfinite().flatten(1).all(dim=1).tolist()
        for row, fine in zip(whole, finite, strict=True):
            if fine:
                kept.append(row)
            else:
                skipped[row.id] = "features are not finite"
        features.append(seen.features[finite].numpy())
        if seen.classes is not None:
            classes.append(seen.classes[finite].numpy())
    empty = np.zeros((len(kept), 0), np.float32)
    return FeatureRows(
        [row.id for row in kept],
        [row.group for row in kept],
        [row.text for row in kept],
        np.concatenate(features) if features else empty,
        _words(model, [row.text for row in kept]),
        np.concatenate(classes) if classes else empty,
        _alike(kept, shown),
        skipped,
    )


def _words(model: FeatureExtractor, texts: Sequence[str | None]) -> NDArray[np.float32]:
    distinct = list(dict.fromkeys(text for text in texts if text is not None))
    parts = [model.read(distinct[start : start + _CALL_TEXTS]) for start in range(0, len(distinct), _CALL_TEXTS)]
    found = [part.numpy() for part in parts if part is not None]
    if not found:
        return np.zeros((len(texts), 0), np.float32)
    vectors = np.concatenate(found)
    place = {text: number for number, text in enumerate(distinct)}
    words = np.full((len(texts), vectors.shape[1]), np.nan, np.float32)
    for row, text in enumerate(texts):
        if text is not None:
            words[row] = vectors[place[text]]
    return words


def _alike(rows: Sequence[ImageRow], shown: dict[str, list[NDArray[np.uint8]]]) -> list[float | None]:
    """For each prompt, at its first row, the mean MS-SSIM over the pairs of its first images of one size."""
    found: list[float | None] = []
    met: set[str] = set()
    for row in rows:
        value = None
        if row.group not in met:
            met.add(row.group)
            pictures = [one for one in shown[row.group] if one.shape == shown[row.group][0].shape]
            pairs = [(a, b) for a in range(len(pictures)) for b in range(a)]
            if pairs:
                stack = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).double() / 255
                first, second = (stack[[pair[side] for pair in pairs]] for side in (0, 1))
                alike = ms_ssim(first, second)
                value = None if alike is None else float(alike.mean())
        found.append(value)
    return found


def extract_missing(settings: ExtractSettings, actors: Actors, tell: Callable[[str, int, int], None]) -> None:
    """Extracts and compares what is not there yet, all in one pool: its actors load the model once.

    Args:
        settings: for the actors.
        actors: the pool.
        tell: takes a part's table ("pairs" for compared ones), its rows, and how many were skipped.
    """
    work: dict[str, Extraction | Pairing] = dict(settings.tables)
    if settings.pairs is not None:
        work[_PAIRS] = settings.pairs
    blocks = [
        pa.table({"table": [name], "part": [part]}) for name, own in work.items() for part in own.features.missing()
    ]
    if not blocks:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    done = whole_blocks(ray.data.from_blocks(blocks), ExtractStage, (settings,), pool(actors, 1))
    for row in done.iter_rows():
        tell(row["table"], row["rows"], row["skipped"])
