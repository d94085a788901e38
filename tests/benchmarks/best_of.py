"""What choosing buys: R-precision of the best of 1, 2, 4, 8 images of the demo's prompts.

    python -m tests.benchmarks.best_of [JUDGE]

64 images of each of the 24 prompts are rendered and scored (`select.score=true`). The best of n is taken of each n in a
row, as `generate.candidates=n` takes it. JUDGE is the URI of an image-text encoder that did not choose; without it the
scorer judges itself, and part of the gain is its own taste. Intervals are bootstrapped over prompts.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from actors.batched import embed_captions, embed_pictures
from actors.image_text import load_image_text
from actors.model_uri import resolve_model
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.metrics.intervals import ByPrompt
from pipeline.metrics.match import right_of_all
from pipeline.synthesize import synthesize

IMAGES, BEST_OF = 64, (1, 2, 4, 8)


def main(judge_uri: str) -> None:
    """Prints a line for each n."""
    judge = load_image_text(resolve_model(judge_uri).path)
    with tempfile.TemporaryDirectory() as scratch:
        told = ["prompts.uri=examples/demo.parquet", "expand=null", f"generate.images={IMAGES}", "select.score=true",
                f"output.uri={scratch}/set"]  # fmt: skip
        synthesize(load_config(SynthesizeConfig, None, told), quiet=True)
        rows = [row for file in sorted(Path(scratch, "set/data").iterdir()) for row in pq.read_table(file).to_pylist()]
    rows.sort(key=lambda row: (row["prompt_id"], row["image_index"]))
    prompts = sorted({row["prompt"] for row in rows})
    words = embed_captions(judge, prompts).numpy()
    pictures = torch.stack([_pixels(row["image"]["bytes"]) for row in rows])
    seen = embed_pictures(judge, pictures).numpy()
    scores = np.array([row["scores"]["similarity"] for row in rows])
    text = np.array([prompts.index(row["prompt"]) for row in rows])
    # Among prompts of one language: 红心 is no wrong answer for "a red heart".
    right = np.zeros(len(rows))
    for english in (True, False):
        mine = np.array([number for number, prompt in enumerate(prompts) if prompt.isascii() == english])
        place = {number: place for place, number in enumerate(mine.tolist())}
        own = np.isin(text, mine)
        right[own] = right_of_all(seen[own], words[mine], np.array([place[number] for number in text[own].tolist()]))
    for n in BEST_OF:
        # Rows of one prompt lie together, and n divides their number: each n in a row are candidates of one image.
        chosen = scores.reshape(-1, n).argmax(axis=1) + np.arange(0, len(rows), n)
        figure = ByPrompt.of([rows[number]["prompt"] for number in chosen], right[chosen])
        low, high = figure.interval(0)
        print(f"best of {n}: R-precision among the prompts of a language: {figure.value:.1%} ({low:.1%} to {high:.1%})")


def _pixels(data: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "package:promptmill/encoder")
