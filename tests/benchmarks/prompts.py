"""The prompts of benchmarks: a table that the user names, or sentences made from words, as long as people's prompts."""

from __future__ import annotations

import itertools
from pathlib import Path

import pyarrow.parquet as pq

_WHO = ("a cat", "an old fisherman", "two red foxes", "the astronaut", "a small wooden robot", "three children",
        "a photograph of a woman in a blue coat", "an owl", "a horse and its rider", "a bowl of oranges")  # fmt: skip
_DOING = ("playing", "sleeping", "waiting beside a yellow bicycle", "reading a newspaper", "under an umbrella",
          "looking at the stars", "made of coloured glass", "painted in oil")  # fmt: skip
_WHERE = ("on the beach", "in a narrow street after the rain", "in front of a castle", "at night",
          "on a table in the kitchen", "between tall green trees", "at the top of a snowy mountain", "")  # fmt: skip
_STEP = 37  # shares no factor with the number of sentences: neighbours differ in every part


def benchmark_prompts(table: Path | None) -> list[str]:
    """The English prompts of a Parquet table's column ``prompt``; without a table 640 made ones."""
    if table is not None:
        found = pq.read_table(table, columns=["prompt"])["prompt"].to_pylist()
        return [prompt for prompt in found if prompt and prompt.isascii()]
    made = [" ".join(filter(None, parts)) for parts in itertools.product(_WHO, _DOING, _WHERE)]
    return [made[number * _STEP % len(made)] for number in range(len(made))]
