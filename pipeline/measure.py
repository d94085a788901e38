"""All metrics of a set of images, each with what its interval and a comparison need, and how it was computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate_config import Measures
from pipeline.gather import Gathered, group_halves
from pipeline.metrics.distribution import ClassSums, KernelDistance, extrapolated, frechet_distance
from pipeline.metrics.intervals import ByPrompt, Figure, Whole
from pipeline.metrics.manifold import Neighbourhoods
from pipeline.metrics.match import clip_score, right_of_all, right_of_some
from pipeline.metrics.moments import Floats, Moments
from pipeline.metrics.variety import mean_distance, nearest, vendi_score

MANY = 10_000
"""Images from which on FID's bias is small beside its spread (Chong & Forsyth, 2020)."""
Better = Literal["higher", "lower"] | None


@dataclass(frozen=True)
class Metric:
    """One figure; ``better`` says which direction is, None where neither is; ``beside``: it rests on a reference.

    ``least`` and ``most`` are the values that it can take at all.
    """

    name: str
    figure: Figure
    how: str
    better: Better
    beside: bool = False
    least: float = -math.inf
    most: float = math.inf

    def interval(self, seed: int) -> tuple[float, float]:
        """The 95% interval of the figure: that of halves reaches as far on both sides, here no further than may be."""
        low, high = self.figure.interval(seed)
        return max(low, self.least), min(high, self.most)


def measure(
    made: Gathered, real: Gathered | None, features: str, settings: Measures, seed: int
) -> tuple[list[Metric], list[str]]:
    """All that can be measured of ``made``, beside ``real`` where there is one; and warnings, one sentence each.

    Args:
        made, real: generated images and the reference.
        features: name of the features, shown beside each metric that rests on them.
        settings: subset, neighbours, choice, threshold.
        seed: of draws.
    """
    found: list[Metric] = []
    warnings: list[str] = []
    if made.words.shape[1]:
        found += _match(made, features, settings, seed)
    if real is not None:
        found += [replace(metric, beside=True) for metric in _distance(made, real, features, settings)]
        warnings += _doubts(made, real, features)
    if made.classes:
        found.append(_inception(made, features))
    found += _variety(made, real, features, settings)
    return [metric for metric in found if metric.figure.count], warnings


def _match(made: Gathered, features: str, settings: Measures, seed: int) -> list[Metric]:
    told = [text is not None for text in made.texts]
    images, words = made.features[told], made.words[told]
    distinct, first, text = np.unique(
        np.array([one for one in made.texts if one is not None], dtype=object).astype(str),
        return_index=True, return_inverse=True,
    )  # fmt: skip
    prompts = [prompt for prompt, one in zip(made.subset_prompts, told, strict=True) if one]
    cosine = ByPrompt.of(made.prompts, made.similarities)
    metrics = [
        Metric(f"similarity ({features})", cosine, "mean cosine of an image and its words", "higher"),
        Metric(
            f"CLIPScore ({features})",
            ByPrompt.of(made.prompts, clip_score(made.similarities)),
            "mean of 100 * max(cosine, 0)", "higher",
        ),
    ]  # fmt: skip
    if len(distinct) > 1:
        some = min(settings.choice, len(distinct))
        for name, right in (
            (f"1 of {some}", right_of_some(images, words[first], text, seed, settings.choice)),
            (f"1 of all {len(distinct)}", right_of_all(images, words[first], text)),
        ):
            how = f"share of images that are nearest to their own words, {name}; seeded subset of {len(images)} images"
            kind = "1 of all" if "all" in name else name
            metrics.append(
                Metric(f"R-precision, {kind} ({features})", ByPrompt.of(prompts, right.astype(float)), how, "higher")
            )
    return metrics


def _distance(made: Gathered, real: Gathered, features: str, settings: Measures) -> list[Metric]:
    ours, theirs = group_halves(1), group_halves(2)
    fid = _of_halves(
        lambda one, two: frechet_distance(real.whole(two), made.whole(one)), made.moments, real.moments, ours, theirs
    )
    whole = frechet_distance(real.whole(), made.whole())
    rows = f"{made.rows} generated and {real.rows} reference images"
    metrics = [Metric(f"FID ({features})", Whole(whole, fid, made.rows), f"Frechet distance, {rows}", "lower", least=0)]
    if min(made.rows, real.rows) < MANY:
        metrics.append(_infinity(made, real, features))
    kernel = KernelDistance.of(real.features, made.features)
    spread = kernel.of_subsets(real.masks(theirs), made.masks(ours))
    subset = f"seeded subset of {len(made.features)} and {len(real.features)} images"
    metrics.append(
        Metric(
            f"KID ({features})", Whole(kernel.value(), spread, len(made.features)),
            f"unbiased squared MMD, cubic kernel, {subset}", "lower",
        )
    )  # fmt: skip
    k = min(settings.neighbours, len(made.features) // 4, len(real.features) // 4)
    if k >= 1:
        near = Neighbourhoods.of(real.features, made.features)
        values = near.measures(k)
        parts = [
            near.subset(two, one).measures(k) for one, two in zip(made.masks(ours), real.masks(theirs), strict=True)
        ]
        for name, value in values.items():
            metrics.append(
                Metric(
                    f"{name} ({features})",
                    Whole(value, np.array([part[name] for part in parts]), len(made.features)),
                    f"{k} nearest neighbours, {subset}", "higher",
                    least=0, most=math.inf if name == "density" else 1,
                )
            )  # fmt: skip
    closest = nearest(made.features / _lengths(made.features), real.features / _lengths(real.features))
    copied = (closest >= settings.duplicate).astype(float)
    metrics.append(
        Metric(
            f"near-copies of the reference ({features})", ByPrompt.of(made.subset_prompts, copied),
            f"share of images within cosine {settings.duplicate:g} of one of {len(real.features)} reference images",
            "lower",
        )
    )  # fmt: skip
    metrics.append(
        Metric(
            f"nearest reference ({features})", ByPrompt.of(made.subset_prompts, closest),
            f"mean highest cosine with {len(real.features)} reference images", None,
        )
    )  # fmt: skip
    return metrics


def _infinity(made: Gathered, real: Gathered, features: str) -> Metric:
    """FID at four sizes, both sets shrinking alike, and the line through them against 1 / n."""

    def at(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
        counts, values = [], []
        for part in (0.25, 0.5, 0.75, 1.0):
            mine, other = _share(made.moments, ours, part), _share(real.moments, theirs, part)
            counts.append(min(mine.count, other.count))
            values.append(frechet_distance(other, mine))
        return extrapolated(counts, values)

    ours, theirs = group_halves(1), group_halves(2)
    whole = at(np.ones(ours.shape[1], bool), np.ones(theirs.shape[1], bool))
    spread = _of_halves(at, made.moments, real.moments, ours, theirs)
    how = "Frechet distance extrapolated to infinitely many images (Chong & Forsyth, 2020)"
    return Metric(f"FID-infinity ({features})", Whole(whole, spread, made.rows), how, "lower")


def _share(moments: dict[int, Moments], chosen: NDArray[np.bool_], part: float) -> Moments:
    there = [group for group in sorted(moments) if chosen[group]]
    return Moments.merged(moments[group] for group in there[: max(1, round(part * len(there)))])


def _of_halves(
    value: Callable[[NDArray[np.bool_], NDArray[np.bool_]], float],
    mine: dict[int, Moments],
    other: dict[int, Moments],
    ours: NDArray[np.bool_],
    theirs: NDArray[np.bool_],
) -> Floats:
    """A value of each pair of halves; NaN where one of them has no rows."""
    there = [np.isin(np.arange(ours.shape[1]), list(moments)) for moments in (mine, other)]
    return np.array(
        [
            value(one, two) if (one & there[0]).any() and (two & there[1]).any() else np.nan
            for one, two in zip(ours, theirs, strict=True)
        ]
    )


def _inception(made: Gathered, features: str) -> Metric:
    def score(chosen: NDArray[np.bool_] | None) -> float:
        parts = [sums for group, sums in sorted(made.classes.items()) if chosen is None or chosen[group]]
        whole: ClassSums = parts[0]
        for part in parts[1:]:
            whole = whole.merge(part)
        return whole.inception_score()

    spread = np.array([score(one) for one in group_halves(1) if any(one[group] for group in made.classes)])
    how = f"one split of {made.rows} images"
    return Metric(f"Inception Score ({features})", Whole(score(None), spread, made.rows), how, "higher", least=1)


def _variety(made: Gathered, real: Gathered | None, features: str, settings: Measures) -> list[Metric]:
    unit = made.features / _lengths(made.features)
    halves = [mask for mask in made.masks(group_halves(1)) if mask.any()]
    spread = np.array([vendi_score(Moments.of(unit[mask])) for mask in halves])
    many = len(unit)
    apart = {prompt: mean_distance(rows / _lengths(rows)) for prompt, rows in made.within.items()}
    twins = (nearest(unit, unit, same=True) >= settings.duplicate).astype(float)
    return [
        Metric(
            f"Vendi score ({features})", Whole(vendi_score(Moments.of(unit)), spread, many),
            f"effective number of different images among {many}, cosine kernel", "higher",
            least=1, most=many,
        ),
        Metric(
            f"distance within a prompt ({features})",
            ByPrompt.of(list(apart), np.array(list(apart.values()), np.float64)),
            f"mean of 1 - cosine over the pairs of a prompt's images, {len(apart)} prompts with several", "higher",
        ),
        Metric(
            "MS-SSIM within a prompt", ByPrompt.of(made.prompts, made.ms_ssim),
            "mean over the pairs of a prompt's first images; lower is more varied", "lower",
        ),
        Metric(
            f"near-duplicates ({features})", ByPrompt.of(made.subset_prompts, twins),
            f"share of {many} images within cosine {settings.duplicate:g} of another of them", "lower",
        ),
    ]  # fmt: skip


def _doubts(made: Gathered, real: Gathered, features: str) -> list[str]:
    found, few = [], min(made.rows, real.rows)
    if few < MANY:
        found.append(
            f"FID ({features}) is biased upwards at {few} images (under {MANY:,}): compare at equal n only, or read "
            "FID-infinity"
        )
    width = made.features.shape[1]
    if few <= width:
        found.append(
            f"{few} images are no more than the {width} dimensions of the features: the covariances are singular and "
            "FID says little"
        )
    return found


def _lengths(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    found: NDArray[np.floating] = np.linalg.norm(rows, axis=1, keepdims=True).clip(min=1e-12)
    return found
