"""A few real digits with labels: ``python examples/augmentation/few_digits.py FEW.parquet PROMPTS.parquet``.

Five of each of scikit-learn's ten digits: what somebody has who begins. The prompts ask for a hundred pictures of each.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits

sys.path.append(str(Path(__file__).parents[1] / "digits"))
from prepare import CHINESE, ENGLISH, picture

EACH, MADE = 5, 100


def few() -> list[int]:
    """Numbers of the digits that are known: the first five of each."""
    target = load_digits().target
    return [int(number) for digit in range(10) for number in np.flatnonzero(target == digit)[:EACH]]


def main(table: Path, prompts: Path) -> None:
    """Writes the captioned table and the prompt table."""
    digits = load_digits()
    rows = [
        {
            "image": {"bytes": picture(digits.images[number]), "path": f"{number}.png"},
            "caption_en": [f"the digit {ENGLISH[digits.target[number]]}", ENGLISH[digits.target[number]]],
            "caption_zh": [f"数字{CHINESE[digits.target[number]]}"],
        }
        for number in few()
    ]
    asked = [{"id": f"digit-{n}", "prompt": f"the digit {name}", "label": n} for n, name in enumerate(ENGLISH)]
    for path, some in ((table, rows), (prompts, asked)):
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(some), path)
    print(f"{table}: {len(rows)} real digits; {prompts}: ten prompts, to be rendered {MADE} times each")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
