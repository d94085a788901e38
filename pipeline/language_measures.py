"""What the language model wrote, measured over an output's descriptions."""

from __future__ import annotations

import numpy as np

from actors.checks import kept_share
from pipeline.image_table import ImageTable
from pipeline.measure import Better, Metric
from pipeline.metrics.intervals import ByPrompt, Whole
from pipeline.metrics.language import distinct_n, words_of


def language(images: ImageTable) -> list[Metric]:
    """Accepted share, subject kept, length and distinct-n; empty where nothing was written."""
    rows = [row for number in range(len(images.fragments)) for row in images.texts(number)]
    written = list(
        {(row["prompt"], row["variant"]): row for row in rows if row["description_status"] != "prompt"}.values()
    )
    if not written:
        return []
    prompts = [row["prompt"] for row in written]
    accepted = [row for row in written if row["description_status"] == "accepted"]
    texts = [row["description"] for row in accepted]
    own = [row["prompt"] for row in accepted]
    none = np.full(2, np.nan)

    def mean(name: str, names: list[str], values: list[float], how: str, better: Better) -> Metric:
        return Metric(name, ByPrompt.of(names, np.array(values, np.float64)), how, better)

    metrics = [
        mean(
            "descriptions accepted", prompts, [float(row["description_status"] == "accepted") for row in written],
            f"share of {len(written)} descriptions that passed all checks", "higher",
        ),
        mean(
            "subject kept", own, [kept_share(row["prompt"], row["description"]) for row in accepted],
            "mean share of the prompt's content words that an accepted description names", "higher",
        ),
        mean("description length, words", own, [float(len(words_of(text))) for text in texts], "mean", None),
    ]  # fmt: skip
    for n in (1, 2):
        value = Whole(distinct_n(texts, n), none, len(texts))
        metrics.append(Metric(f"distinct-{n}", value, f"different {n}-grams over all, accepted descriptions", "higher"))
    return [metric for metric in metrics if metric.figure.count]
