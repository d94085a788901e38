"""Which of a shard's rendered images are kept: the best of each description, similar enough, and no near-duplicates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.errors import RowError
from actors.scorer import Scorer
from pipeline import columns as c
from pipeline.assemble import JobSheet, refuse


@dataclass(frozen=True)
class Selection:
    """What is kept of a shard.

    Attributes:
        block: with the reasons of prompt rows that no image is left of.
        kept: numbers of jobs, in order.
        similarity: of each kept job.
    """

    block: pa.Table
    kept: list[int]
    similarity: dict[int, float]


def select(
    scorer: Scorer, block: pa.Table, sheet: JobSheet, errors: Mapping[int, RowError], read: Callable[[int], bytes]
) -> Selection:
    """Chooses among the images that were rendered.

    For each description the candidates are taken best first, until it has as many images as were asked for; one that is
    not similar enough, or a near-duplicate of an image of the shard that was taken before, is passed over. A prompt
    row without any image left is a reject; one with fewer than were asked for is not. A prompt row of which fewer
    could be rendered than were asked for is a reject, as without a choice: no image is lost in silence.

    Args:
        scorer: judges images; its settings say where the limits are.
        block: descriptions of a shard.
        sheet: its jobs, candidates included.
        errors: of jobs that could not be rendered.
        read: a rendered job's file.
    """
    made = [job for job in range(len(sheet.jobs)) if job not in errors]
    words = block[c.DESCRIPTION if scorer.settings.text == "description" else c.PROMPT].to_pylist()
    scores = scorer.score(read, made, [words[sheet.rows[job]] for job in made])
    place = {job: number for number, job in enumerate(made)}
    similarity = {job: float(scores.similarity[number]) for job, number in place.items()}
    candidates: dict[int, list[int]] = {}
    for job in made:
        candidates.setdefault(sheet.rows[job], []).append(job)
    asked, prompt_rows = block[c.IMAGES].to_pylist(), block[c.ROW].to_pylist()
    refused: dict[int, RowError] = {}
    for job in sorted(errors):
        row = sheet.rows[job]
        if len(candidates.get(row, [])) < asked[row]:
            refused.setdefault(prompt_rows[row], errors[job])
    taken: list[int] = []
    reasons: dict[int, RowError] = {}
    for row, jobs in candidates.items():
        if prompt_rows[row] in refused:
            continue
        best_first = sorted(jobs, key=lambda job: (-similarity[job], job))
        enough = [job for job in best_first if scorer.settings.min_similarity is None
                  or similarity[job] >= scorer.settings.min_similarity]  # fmt: skip
        before = len(taken)
        for job in enough:
            if len(taken) - before == asked[row]:
                break
            if not _seen(scores.features, place[job], [place[one] for one in taken], scorer.settings.dedupe):
                taken.append(job)
        if len(taken) == before:
            best = similarity[best_first[0]]
            reasons.setdefault(prompt_rows[row], _reason(scorer, best, len(jobs), bool(enough)))
    committed = {prompt_rows[sheet.rows[job]] for job in taken}
    refused |= {row: error for row, error in reasons.items() if row not in committed}
    return Selection(refuse(block, refused), sorted(taken), similarity)


def _seen(features: NDArray[np.float32], one: int, others: list[int], limit: float | None) -> bool:
    return limit is not None and bool(others) and float((features[others] @ features[one]).max()) >= limit


def _reason(scorer: Scorer, best: float, count: int, enough: bool) -> RowError:
    own = scorer.settings
    if not enough:
        return RowError(
            "low_similarity",
            f"the best of {count} has {best:.4f}; select.min_similarity is {own.min_similarity}",
        )
    return RowError(
        "near_duplicate", f"its {count} images are within cosine {own.dedupe} of images of its shard (select.dedupe)"
    )
