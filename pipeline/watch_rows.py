"""Pictures of a table that a training run is measured against: chosen once, by the run's seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.seeds import derive_seed
from actors.training_batch import unit_images
from pipeline.captioned import CaptionedRow, CaptionedTable
from pipeline.sample_reader import caption_hash, draw_caption, pixels


@dataclass(frozen=True)
class WatchRows:
    """Rows, and one caption of each."""

    rows: list[CaptionedRow]
    captions: list[str]

    def pictures(self, side: int) -> Tensor:
        """(n, 3, side, side) float32 in [-1, 1]."""
        return torch.cat([unit_images(torch.tensor(pixels(row, side))[None]) for row in self.rows])

    def true(self) -> Tensor:
        """(n, n) bool: [picture, caption], which captions are true of which pictures."""
        places: dict[int, list[int]] = {}
        for place, text in enumerate(self.captions):
            places.setdefault(caption_hash(text), []).append(place)
        found = torch.zeros(len(self.rows), len(self.captions), dtype=torch.bool)
        for number, row in enumerate(self.rows):
            for text in row.captions:
                found[number, places.get(caption_hash(text), [])] = True
        return found


def choose_rows(table: CaptionedTable, count: int, seed: int) -> WatchRows:
    """``count`` rows drawn alike; rows of a weight below 1 (derived copies) are left out where there are others."""
    heavy = [
        (number, row)
        for number, fragment in enumerate(table.fragments)
        for row in range(fragment.rows)
        if fragment.weights is None or fragment.weights[row] >= 1
    ]
    places = heavy or [(number, row) for number, one in enumerate(table.fragments) for row in range(one.rows)]
    random.Random(derive_seed(seed, "watch")).shuffle(places)
    chosen: dict[int, list[int]] = {}
    for number, row in places[:count]:
        chosen.setdefault(number, []).append(row)
    rows = [found for number, some in sorted(chosen.items()) for found in table.read(table.fragments[number], some)]
    captions = [draw_caption(row, random.Random(derive_seed(seed, "watch", number))) for number, row in enumerate(rows)]
    return WatchRows(rows, captions)
