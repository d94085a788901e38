"""Paired metrics: images beside the truth with the same id, pixel by pixel."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from actors.decode import decode_image, square
from actors.errors import UserError
from actors.lpips import SMALLEST, Lpips, alexnet_file
from pipeline.feature_table import FeatureTable
from pipeline.image_table import ImageRow, ImageTable
from pipeline.metrics.intervals import ByPrompt
from pipeline.metrics.paired import ms_ssim, psnr, ssim
from pipeline.storage_errors import public_uri

COLUMNS = ("psnr", "ssim", "ms_ssim", "lpips")
_SCHEMA = pa.schema([("id", pa.string()), ("prompt_id", pa.string()), *((name, pa.float64()) for name in COLUMNS)])


@dataclass(frozen=True)
class Pairing:
    """Images, and what they are compared with under the same ids; picklable.

    ``places`` says in which fragment and row of the truth an id is, ``features`` where the parts are kept, ``lpips``
    where AlexNet is (None: no LPIPS).
    """

    made: ImageTable
    truth: ImageTable
    places: dict[str, tuple[int, int]]
    features: FeatureTable
    lpips: str | None = None


def pairing(made: ImageTable, truth: ImageTable, features: FeatureTable, lpips: str | None = None) -> Pairing:
    """Finds the truth of each image; nothing is read but ids.

    Raises:
        UserError: one of the tables has no ids, or they have none in common.
    """
    places = {own: (number, row) for number in range(len(truth.fragments)) for row, own in enumerate(truth.ids(number))}
    if not any(own in places for number in range(len(made.fragments)) for own in made.ids(number)):
        raise UserError(
            f"no image of '{public_uri(made.table.uri)}' has the id of one in '{public_uri(truth.table.uri)}': paired "
            "metrics compare rows with the same id"
        )
    return Pairing(made, truth, places, features, lpips)


class PairComparer:
    """Reads a fragment's images and their truths, compares, writes the part."""

    def __init__(self, settings: Pairing) -> None:
        self._settings = settings
        self._lpips = Lpips(alexnet_file(settings.lpips)) if settings.lpips else None

    def write(self, part: int) -> tuple[int, int]:
        """(pairs, images left out) of a part."""
        own = self._settings
        rows = own.made.read(part)
        values = [found for row in rows if (found := self._compare(row)) is not None]
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(values, schema=_SCHEMA), sink)
        own.features.store.create(own.features.name(part), sink.getvalue())
        return len(values), len(rows) - len(values)

    def _compare(self, row: ImageRow) -> dict[str, str | float | None] | None:
        place = self._settings.places.get(row.id)
        if place is None or row.image is None:
            return None
        (truth,) = self._settings.truth.read(place[0], [place[1]])
        if truth.image is None:
            return None
        try:
            picture = decode_image(row.image, self._settings.made.table.max_pixels)
            true = decode_image(truth.image, self._settings.truth.table.max_pixels)
            side = min(picture.size)
            first, second = _unit(square(picture, side)), _unit(square(true, side))
        except ValueError:
            return None
        alike = ms_ssim(first, second)
        lpips = None if self._lpips is None or side < SMALLEST else float(self._lpips(first, second))
        return {
            "id": row.id,
            "prompt_id": row.group,
            "psnr": float(psnr(first, second)),
            "ssim": float(ssim(first, second)),
            "ms_ssim": None if alike is None else float(alike),
            "lpips": lpips,
        }


def paired_figures(pairs: FeatureTable) -> dict[str, ByPrompt]:
    """Means over the pairs, by metric."""
    table = pa.concat_tables(list(pairs.read()))
    prompts = table["prompt_id"].to_pylist()
    return {name: ByPrompt.of(prompts, table[name].to_numpy().astype(np.float64)) for name in COLUMNS}


def _unit(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255
