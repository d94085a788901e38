"""Training samples made: rows read, pictures decoded, a caption of each drawn and tokenised.

Imported by the reader actors of `pipeline.sample_stream`, so neither torch nor transformers is: an actor that reads
starts in a fraction of the time, and in less memory.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from ray.data.block import Block, BlockAccessor
from tokenizers import Tokenizer

from actors.decode import MAX_PIXELS, decode_image, square
from actors.errors import UserError
from actors.seeds import derive_seed
from pipeline.captioned import CaptionedRow, CaptionedTable
from pipeline.sample_order import Pick, SampleOrder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_OWN_CAPTIONS = 128
"""Captions of a picture that count as its own when positives are looked for."""


@dataclass(frozen=True)
class SampleReader:
    """Turns picks into arrays; picklable.

    Args:
        table: the captioned pictures.
        order: where each sample comes from.
        tokenizer: of the text encoder, cutting and padding to one length (`fixed_length` makes one).
        resolution: side of the pictures in pixels; others are resampled (Lanczos) and cropped to a square.
        seed: decides which of a picture's captions is drawn for a sample.
    """

    table: CaptionedTable
    order: SampleOrder
    tokenizer: Tokenizer
    resolution: int
    seed: int

    def blocks(self, first: int, steps: int, lanes: range) -> Iterator[Block]:
        """One block a step. Raises `UserError` for a picture that cannot be read."""
        picks = self.order.picks(first, steps, lanes)
        rows = self._read([pick for step in picks for pick in step])
        for step in picks:
            yield BlockAccessor.batch_to_block(self._batch(step, rows))

    def _read(self, picks: list[Pick]) -> dict[tuple[int, int], CaptionedRow]:
        wanted: dict[int, set[int]] = defaultdict(set)
        for pick in picks:
            wanted[pick.fragment].add(pick.row)
        found = {}
        for fragment, numbers in sorted(wanted.items()):
            ordered = sorted(numbers)
            rows = self.table.read(self.table.fragments[fragment], ordered)
            found.update({(fragment, number): row for number, row in zip(ordered, rows, strict=True)})
        return found

    def _batch(self, picks: list[Pick], rows: dict[tuple[int, int], CaptionedRow]) -> dict[str, NDArray[Any]]:
        drawn = [rows[pick.fragment, pick.row] for pick in picks]
        captions = [
            draw_caption(row, random.Random(derive_seed(self.seed, "caption", pick.sample)))
            for pick, row in zip(picks, drawn, strict=True)
        ]
        # Not pickled with the rest: names of special tokens in a caption are words like others.
        self.tokenizer.encode_special_tokens = True
        tokens = [found.ids for found in self.tokenizer.encode_batch_fast(captions)]
        own = np.zeros((len(picks), MAX_OWN_CAPTIONS), np.int64)
        for place, row in enumerate(drawn):
            hashes = [caption_hash(caption) for caption in row.captions[:MAX_OWN_CAPTIONS]]
            own[place, : len(hashes)] = hashes
        return {
            "image": np.stack([pixels(row, self.resolution, self.table.max_pixels) for row in drawn]),
            "tokens": np.array(tokens, np.int64),
            "caption": np.array([caption_hash(caption) for caption in captions], np.int64),
            "own": own,
            "sample": np.array([pick.sample for pick in picks], np.int64),
        }


class ReadSteps:
    """Reads runs of steps, in an actor: tasks would run in ever new processes, each of which imports all this first."""

    def __init__(self, reader: SampleReader, lanes: range) -> None:
        self._reader, self._lanes = reader, lanes

    def __call__(self, runs: pa.Table) -> Iterator[Block]:
        """Rows of (first step, number of steps) -> a block for each step."""
        for run in runs.to_pylist():
            yield from self._reader.blocks(run["first"], run["steps"], self._lanes)


def fixed_length(tokenizer: PreTrainedTokenizerBase, tokens: int) -> Tokenizer:
    """The tokenizer's own core, which cuts and pads every text to ``tokens``."""
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.enable_truncation(tokens)
    core.enable_padding(
        length=tokens,
        direction=tokenizer.padding_side,
        pad_id=tokenizer.pad_token_id,
        pad_token=str(tokenizer.pad_token),
    )
    return core


def draw_caption(row: CaptionedRow, rng: random.Random) -> str:
    """One caption: the language first, each alike, then a caption of that language."""
    language = rng.choice(sorted(set(row.languages)))
    return rng.choice([text for text, lang in zip(row.captions, row.languages, strict=True) if lang == language])


@lru_cache(maxsize=1 << 20)
def caption_hash(caption: str) -> int:
    """A positive number for a caption, the same for two that differ in case or space alone."""
    digest = hashlib.blake2b(" ".join(caption.lower().split()).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1 | 1


def pixels(row: CaptionedRow, resolution: int, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """A picture as (resolution, resolution, 3) uint8: transparent parts on white, cropped to a square in its middle.

    Raises:
        UserError: it cannot be decoded.
    """
    try:
        return square(decode_image(row.image, max_pixels), resolution)
    except ValueError as error:
        raise UserError(f"the picture '{row.name}' cannot be decoded: {error}; mend it or take its row out") from error
