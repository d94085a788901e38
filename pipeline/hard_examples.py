"""Hard examples: real pictures of what a generator draws worst, as a captioned table for a further round of training.

The article's outer loop. What is trained on must be real, so the low scorers' own images are not it: each of their
prompts names, by the caption nearest to it, the pictures of a captioned table that should have taught it.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa

from actors.batched import embed_captions
from actors.errors import UserError
from actors.image_text import ImageText
from pipeline.captioned import CaptionedTable
from pipeline.captioned_files import read_part
from pipeline.evaluate_config import Images
from pipeline.image_table import open_images
from pipeline.prompts import open_fs
from pipeline.storage_errors import public_uri

_CAPTIONS = 16
"""Captions of a picture that are compared with a prompt at most."""
_AS_NEAR = 0.02
"""Captions whose cosine is within this of the nearest one's count too. Not more: a hard prompt becomes a caption of the
pictures that it names, and what is merely similar would teach the wrong thing."""


def lowest_prompts(images: Images, share: float) -> list[str]:
    """The prompts whose images have the lowest mean similarity, lowest first.

    Raises:
        UserError: the images have no scores (`select.score=true` makes them).
    """
    table = open_images(images, "images")
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for fragment in table.fragments:
        fs = open_fs(table.table.uri, dict(table.table.options))
        part = read_part(fs, fragment.uri, fragment.part, ["prompt", "scores"])
        if set(part.column_names) != {"prompt", "scores"}:
            raise UserError(f"'{public_uri(fragment.uri)}' has no columns prompt and scores: name a promptmill output")
        for prompt, scores in zip(part["prompt"].to_pylist(), part["scores"].to_pylist(), strict=True):
            if scores is None or scores["similarity"] is None:
                raise UserError(
                    f"'{public_uri(fragment.uri)}' was not scored: make it with select.score=true, or by refine"
                )
            sums[prompt][0] += scores["similarity"]
            sums[prompt][1] += 1
    ordered = sorted(sums, key=lambda prompt: (sums[prompt][0] / sums[prompt][1], prompt))
    return ordered[: max(1, round(share * len(ordered)))]


def hard_examples(
    prompts: list[str], pictures: CaptionedTable, encoder: ImageText, *, limit: float = 0.7, others: float = 0.25,
) -> pa.Table:  # fmt: skip
    """A captioned table with a weight a row: pictures that a hard prompt names weigh more, and have it as a caption.

    Args:
        prompts: the hard ones.
        pictures: real pictures with captions.
        encoder: says which captions are near to a prompt.
        limit: cosine of prompt and caption under which a prompt names no picture.
        others: weight of a picture that no prompt names; one that is named has 1 for each prompt besides.

    Raises:
        UserError: no prompt is near to any caption.
    """
    own, images = _captions(pictures)
    owners: dict[str, list[int]] = defaultdict(list)
    for picture, captions in enumerate(own):
        for caption in captions:
            owners[caption].append(picture)
    distinct = list(owners)
    similar = (embed_captions(encoder, prompts) @ embed_captions(encoder, distinct).T).numpy()
    named: dict[int, list[str]] = defaultdict(list)
    for prompt, row in zip(prompts, similar, strict=True):
        near = np.flatnonzero(row >= max(limit, row.max() - _AS_NEAR))
        for picture in sorted({picture for number in near for picture in owners[distinct[number]]}):
            named[picture].append(prompt)
    if not named:
        raise UserError(f"no caption of '{public_uri(pictures.uri)}' is within cosine {limit:g} of a hard prompt")
    weights = [others + len(named.get(number, [])) for number in range(len(images))]
    rows = [
        {
            "image": {"bytes": data, "path": name},
            "caption": list(dict.fromkeys([*own[number], *named.get(number, [])])),
            "weight": weights[number],
        }
        for number, (data, name) in enumerate(images)
        if weights[number] > 0
    ]
    return pa.Table.from_pylist(rows)


def _captions(pictures: CaptionedTable) -> tuple[list[list[str]], list[tuple[bytes, str]]]:
    """The distinct captions of each picture, and its file and name."""
    captions, images = list[list[str]](), list[tuple[bytes, str]]()
    for fragment in pictures.fragments:
        for row in pictures.read(fragment):
            captions.append(list(dict.fromkeys(row.captions[:_CAPTIONS])))
            images.append((row.image, row.name))
    return captions, images
