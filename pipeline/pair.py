"""Paired metrics: images beside the truth with the same id, pixel by pixel, through Ray Data."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from torch import Tensor

from actors.decode import decode_image, square
from actors.errors import UserError
from actors.lpips import SMALLEST, Lpips, alexnet_file
from pipeline.config import Actors
from pipeline.feature_table import FeatureTable
from pipeline.graph import pool
from pipeline.image_table import ImageRow, ImageTable
from pipeline.metrics.intervals import ByPrompt
from pipeline.metrics.paired import ms_ssim, psnr, ssim
from pipeline.storage_errors import public_uri

COLUMNS = ("psnr", "ssim", "ms_ssim", "lpips")
_SCHEMA = pa.schema([("id", pa.string()), ("prompt_id", pa.string()), *((name, pa.float64()) for name in COLUMNS)])


@dataclass(frozen=True)
class PairSettings:
    """All that a pairing actor needs; picklable.

    ``places`` says in which fragment and row of the truth an id is, ``lpips`` where AlexNet is (None: no LPIPS).
    """

    made: ImageTable
    truth: ImageTable
    places: dict[str, tuple[int, int]]
    pairs: FeatureTable
    lpips: str | None = None


class PairStage:
    """Reads a fragment's images and their truths, compares, writes the part."""

    def __init__(self, settings: PairSettings) -> None:
        self._settings = settings
        self._lpips = Lpips(alexnet_file(settings.lpips)) if settings.lpips else None

    def __call__(self, block: pa.Table) -> pa.Table:
        """Rows of part numbers -> (rows, skipped)."""
        told, own = [], self._settings
        for part in block["part"].to_pylist():
            rows = own.made.read(part)
            values = [found for row in rows if (found := self._compare(row)) is not None]
            sink = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(values, schema=_SCHEMA), sink)
            own.pairs.store.create(own.pairs.name(part), sink.getvalue())
            told.append({"rows": len(values), "skipped": len(rows) - len(values)})
        return pa.Table.from_pylist(told)

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


def pair_missing(
    made: ImageTable,
    truth: ImageTable,
    pairs: FeatureTable,
    actors: Actors,
    tell: Callable[[int, int], None] = lambda rows, skipped: None,
    lpips: str | None = None,
) -> None:
    """Compares the parts that are not there yet.

    Args:
        made, truth: the images, and what they are compared with under the same ids.
        pairs: where the parts are kept.
        actors: the pool that compares.
        tell: takes a part's rows and the rows left out.
        lpips: URI of AlexNet's weights; None leaves LPIPS out.

    Raises:
        UserError: one of the tables has no ids, or they have none in common.
    """
    parts = pairs.missing()
    if not parts:
        return
    places = {own: (number, row) for number in range(len(truth.fragments)) for row, own in enumerate(truth.ids(number))}
    if not any(own in places for number in range(len(made.fragments)) for own in made.ids(number)):
        raise UserError(
            f"no image of '{public_uri(made.table.uri)}' has the id of one in '{public_uri(truth.table.uri)}': paired "
            "metrics compare rows with the same id"
        )
    settings = PairSettings(made, truth, places, pairs, lpips)
    done = ray.data.from_blocks([pa.table({"part": [part]}) for part in parts]).map_batches(
        PairStage, fn_constructor_args=(settings,), batch_size=None, batch_format="pyarrow", **pool(actors, 1)
    )
    for row in done.iter_rows():
        tell(row["rows"], row["skipped"])


def paired_figures(pairs: FeatureTable) -> dict[str, ByPrompt]:
    """Means over the pairs, by metric."""
    table = pa.concat_tables(list(pairs.read()))
    prompts = table["prompt_id"].to_pylist()
    return {name: ByPrompt.of(prompts, table[name].to_numpy().astype(np.float64)) for name in COLUMNS}


def _unit(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255
