"""scikit-learn's 8x8 digits as a captioned image table: ``python examples/digits/prepare.py OUT.parquet [PROMPTS]``.

1,797 digits by 43 people (UCI, Alpaydin & Kaynak 1998, CC BY 4.0), enlarged to 16x16, with their names in words,
in English and Chinese. Every fifth is held out in ``split``: the classifier that judges is trained on those alone.
PROMPTS is a prompt table that asks for each digit once in both languages.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits

ENGLISH = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CHINESE = "零一二三四五六七八九"


def picture(ink: np.ndarray) -> bytes:
    """An 8x8 digit of 0..16 as a PNG of 16x16 pixels, black on white."""
    shades = Image.fromarray((255 - ink * 255 / 16).round().astype(np.uint8))
    sink = io.BytesIO()
    shades.resize((16, 16), Image.Resampling.BICUBIC).convert("RGB").save(sink, "PNG")
    return sink.getvalue()


def main(target: Path, prompts: Path | None = None) -> None:
    """Writes the tables."""
    digits = load_digits()
    rows = []
    for number, (ink, digit) in enumerate(zip(digits.images, digits.target.tolist(), strict=True)):
        name, sign = ENGLISH[digit], CHINESE[digit]
        rows.append(
            {
                "image": {"bytes": picture(ink), "path": f"{number}.png"},
                "caption_en": [f"the digit {name}", name, f"a handwritten {name}", f"the number {name}", str(digit)],
                "caption_zh": [f"数字{sign}", sign, f"手写的{sign}"],
                "label": digit,
                "split": "held_out" if number % 5 == 0 else "train",
            }
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), target)
    print(f"{target}: {len(rows)} digits")
    if prompts is not None:
        asked = [f"the digit {name}" for name in ENGLISH] + [f"数字{sign}" for sign in CHINESE]
        pq.write_table(pa.table({"prompt": asked, "digit": [*range(10), *range(10)]}), prompts)
        print(f"{prompts}: {len(asked)} prompts")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
