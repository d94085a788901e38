"""Training samples through Ray Data: decoded pictures and tokenised captions, in the order of the run.

A reader actor serves a run of steps for one worker: it reads the rows that `SampleOrder` names, decodes them and draws
a caption for each, so that decoding runs beside training and memory holds a few runs alone. The stream is made inside
the training worker, which alone knows the step that it resumes from; its order is kept.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data.block import Block, BlockAccessor
from transformers import PreTrainedTokenizerFast

from actors.decode import MAX_PIXELS, decode_image, square
from actors.errors import UserError
from actors.seeds import derive_seed
from actors.training_batch import TrainingBatch
from pipeline.captioned import CaptionedRow, CaptionedTable
from pipeline.sample_order import Pick, SampleOrder

MAX_OWN_CAPTIONS = 128
"""Captions of a picture that count as its own when positives are looked for."""
_STEPS_A_RUN = 16


@dataclass(frozen=True)
class SampleReader:
    """Turns picks into arrays; picklable.

    Args:
        table: the captioned pictures.
        order: where each sample comes from.
        tokenizer: of the text encoder; captions are padded to ``max_tokens``.
        resolution: side of the pictures in pixels; others are resampled (Lanczos) and cropped to a square.
        max_tokens: tokens of a caption at most.
        seed: decides which of a picture's captions is drawn for a sample.
    """

    table: CaptionedTable
    order: SampleOrder
    tokenizer: PreTrainedTokenizerFast
    resolution: int
    max_tokens: int
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
        tokens = self.tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=self.max_tokens,
            split_special_tokens=True,
            return_tensors="np",
        )["input_ids"]
        own = np.zeros((len(picks), MAX_OWN_CAPTIONS), np.int64)
        for place, row in enumerate(drawn):
            hashes = [caption_hash(caption) for caption in row.captions[:MAX_OWN_CAPTIONS]]
            own[place, : len(hashes)] = hashes
        return {
            "image": np.stack([pixels(row, self.resolution, self.table.max_pixels) for row in drawn]),
            "tokens": tokens.astype(np.int64),
            "caption": np.array([caption_hash(caption) for caption in captions], np.int64),
            "own": own,
            "sample": np.array([pick.sample for pick in picks], np.int64),
        }


class _ReadSteps:
    """Reads runs of steps, in an actor: tasks would run in ever new processes, each of which imports torch first."""

    def __init__(self, reader: SampleReader, lanes: range) -> None:
        self._reader, self._lanes = reader, lanes

    def __call__(self, runs: pa.Table) -> Iterator[Block]:
        """Rows of (first step, number of steps) -> a block for each step."""
        for run in runs.to_pylist():
            yield from self._reader.blocks(run["first"], run["steps"], self._lanes)


class _Unhurried:
    """Lets Ray Data's scheduler rest between two rounds (a callback of the `DataContext`).

    While blocks wait for a slow consumer, and a training step is one, the scheduler goes round without a pause: its
    thread held the GIL and half a core of the training worker (seen: steps three times as long).
    """

    def before_execution_starts(self, executor: Any) -> None:
        """Nothing."""

    def on_execution_step(self, executor: Any) -> None:
        """After each round."""
        time.sleep(0.05)

    def after_execution_succeeds(self, executor: Any) -> None:
        """Nothing."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Nothing."""


def stream(
    reader: SampleReader, first: int, last: int, *, rank: int, workers: int, readers: int = 1, span: int = 4096
) -> Iterator[TrainingBatch]:
    """The batches of steps ``first`` to ``last`` for one of ``workers``, one a step.

    Args:
        reader: what is read.
        first, last: steps, the last one excluded.
        rank, workers: which worker's share.
        readers: actors that read and decode beside the training worker.
        span: steps planned at once: a run may have millions.
    """
    lanes = reader.order.worker_lanes(rank, workers)
    batch = reader.order.batch // workers
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.custom_execution_callback_classes = [_Unhurried]
    while first < last:
        stop = min(first + span, last)
        runs = [
            pa.table({"first": [begin], "steps": [min(_STEPS_A_RUN, stop - begin)]})
            for begin in range(first, stop, _STEPS_A_RUN)
        ]
        # No CPUs of their own: the training worker may hold them all, and reading would wait for them for ever.
        dataset = ray.data.from_blocks(runs).map_batches(
            _ReadSteps,
            fn_constructor_args=(reader, lanes),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0,
            compute=ray.data.ActorPoolStrategy(size=min(readers, len(runs)), max_tasks_in_flight_per_actor=2),
        )
        for arrays in dataset.iter_torch_batches(batch_size=batch, prefetch_batches=2, drop_last=False):
            yield TrainingBatch(**arrays)
        first = stop


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
