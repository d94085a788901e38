"""What the metrics need of a feature table, read in two passes: sums of all rows, and the features of a seeded subset.

Memory: sums of fixed size (moments by group), ids and one number a row, and the subset's features. Which rows form the
subset, and which group a row is in, are hashes of ids: the same for any partition of the rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.errors import UserError
from pipeline.feature_table import FeatureTable, matrix
from pipeline.metrics.distribution import ClassSums
from pipeline.metrics.intervals import HALVES, halves
from pipeline.metrics.match import similarity
from pipeline.metrics.moments import Moments

GROUPS = 32
"""Groups of rows whose sums are kept apart, so that random halves are sums of sums."""
PROMPTS = 1000
"""Prompts of which all rows are kept, for what is measured within a prompt."""


@dataclass
class Gathered:
    """A set of images as the metrics see it.

    Attributes:
        moments: of the rows of each group that has any.
        classes: the same of class probabilities; empty where the model has none.
        prompts: (n,) of each row.
        similarities: (n,) cosine with its words, NaN without.
        ms_ssim: (n,), NaN but at the first row of a prompt with several.
        features, words: (m, d) of the subset; words NaN without a text, (m, 0) where the model reads none.
        texts: (m,) of the subset.
        subset_prompts: (m,) of the subset.
        subset_groups: (m,) of the subset.
        within: features of all rows of some prompts with several.
    """

    moments: dict[int, Moments]
    classes: dict[int, ClassSums]
    prompts: list[str]
    similarities: NDArray[np.float32]
    ms_ssim: NDArray[np.float32]
    features: NDArray[np.float32]
    words: NDArray[np.float32]
    texts: list[str | None]
    subset_prompts: list[str]
    subset_groups: NDArray[np.intp]
    within: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """All rows."""
        return len(self.prompts)

    def whole(self, groups: NDArray[np.bool_] | None = None) -> Moments:
        """Moments of all rows, or of some groups; none of the chosen may be empty of rows altogether."""
        return Moments.merged(
            moments for group, moments in sorted(self.moments.items()) if groups is None or groups[group]
        )

    def masks(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(k, GROUPS) -> (k, m): which rows of the subset are in the chosen groups."""
        return chosen[:, self.subset_groups]


def group_halves(seed: int) -> NDArray[np.bool_]:
    """(HALVES, GROUPS): the halves that all metrics share."""
    return halves(GROUPS, seed, HALVES)


def gather(table: FeatureTable, seed: int, subset: int, what: str) -> Gathered:
    """Reads a feature table.

    Args:
        table: its parts are all there.
        seed: chooses subset and groups.
        subset: rows of which features are kept.
        what: ``generated`` or ``reference``, for messages.

    Raises:
        UserError: fewer than two images have features.
    """
    ids: list[str] = []
    prompts: list[str] = []
    for part in table.read(["id", "prompt_id"]):
        ids += part["id"].to_pylist()
        prompts += part["prompt_id"].to_pylist()
    if len(ids) < 2:
        why = table.skipped()
        left_out = ""
        if why:
            left_out = f"; {sum(why.values())} are left out, most of them because: {max(why, key=lambda one: why[one])}"
        raise UserError(f"{what} has {len(ids)} image(s) with features, metrics need two at least{left_out}")
    order = _hashes(ids, seed, "row")
    kept = np.zeros(len(ids), bool)
    kept[np.argsort(order, kind="stable")[:subset]] = True
    # Rows of one prompt belong together, and the same prompts of two models; few prompts would make uneven groups.
    by_prompt = len(set(prompts)) >= 4 * GROUPS
    groups = (_hashes(prompts if by_prompt else ids, seed, "group") % GROUPS).astype(np.intp)
    inside = _several(prompts, seed)
    return _second_pass(table, prompts, groups, kept, inside)


def _second_pass(
    table: FeatureTable, prompts: list[str], groups: NDArray[np.intp], kept: NDArray[np.bool_], inside: set[str]
) -> Gathered:
    moments: dict[int, Moments] = {}
    classes: dict[int, ClassSums] = {}
    similarities, alike = [], []
    features, words, texts = [], [], list[str | None]()
    within: dict[str, list[NDArray[np.float32]]] = {}
    start = 0
    for part in table.read():
        stop = start + part.num_rows
        if part.num_rows == 0:
            continue
        rows, own = matrix(part, "features"), groups[start:stop]
        said = matrix(part, "words") if "words" in part.column_names else np.zeros((len(rows), 0), np.float32)
        shares = matrix(part, "classes") if "classes" in part.column_names else None
        for group in np.unique(own).tolist():
            found = Moments.of(rows[own == group])
            moments[group] = moments[group].merge(found) if group in moments else found
            if shares is not None:
                sums = ClassSums.of(shares[own == group])
                classes[group] = classes[group].merge(sums) if group in classes else sums
        similarities.append(similarity(rows, said) if said.shape[1] else np.full(len(rows), np.nan))
        alike.append(part["ms_ssim"].to_numpy(zero_copy_only=False).astype(np.float32))
        chosen = kept[start:stop]
        features.append(rows[chosen])
        words.append(said[chosen])
        texts += part["text"].filter(pa.array(chosen)).to_pylist()
        for place, prompt in enumerate(prompts[start:stop]):
            if prompt in inside:
                within.setdefault(prompt, []).append(rows[place])
        start = stop
    return Gathered(
        moments, classes, prompts, np.concatenate(similarities).astype(np.float32), np.concatenate(alike),
        np.concatenate(features), np.concatenate(words), texts,
        [prompt for prompt, one in zip(prompts, kept, strict=True) if one], groups[kept],
        {prompt: np.stack(rows) for prompt, rows in within.items()},
    )  # fmt: skip


def _several(prompts: Sequence[str], seed: int) -> set[str]:
    """Prompts with several rows, `PROMPTS` of them at most, chosen by hash."""
    counts: dict[str, int] = {}
    for prompt in prompts:
        counts[prompt] = counts.get(prompt, 0) + 1
    several = [prompt for prompt, count in counts.items() if count > 1]
    ranked = np.argsort(_hashes(several, seed, "prompt"), kind="stable")[:PROMPTS]
    return {several[number] for number in ranked}


def _hashes(texts: Sequence[str], seed: int, what: str) -> NDArray[np.uint64]:
    key = hashlib.blake2b(f"{seed} {what}".encode(), digest_size=16).digest()
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest() for text in texts)
    return np.frombuffer(digests, np.uint64)
