"""The emoji table's card: what is in it, from where, under which licences, and what is held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import yaml

from pipeline.emoji import Packages
from pipeline.emoji_table import CAPTIONS, HELD_OUT, RECOLOURED, TRAIN

_TEMPLATES = Path(__file__).parent / "templates"
_KINDS = {
    "role_gender": "role x gender",
    "shape_colour": "shape x colour",
    "concept": "unrelated concepts",
}


def render_emoji_card(
    table: pa.Table, packages: Packages, descriptions: Mapping[str, str], languages: Sequence[str], seed: int
) -> str:
    """The card as Markdown with the Hub's YAML header. The same table gives the same bytes."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    rows = table.drop_columns(["image"]).to_pylist()
    held = [row for row in rows if row["split"] == HELD_OUT]
    trained = [row for row in rows if row["split"] == TRAIN]
    header = {
        "pretty_name": "Captioned Noto emoji",
        "license": "apache-2.0",
        "language": list(languages),
        "task_categories": ["text-to-image"],
        "tags": ["emoji", "promptmill"],
        "size_categories": ["1K<n<10K" if len(rows) >= 1000 else "n<1K"],
    }
    counts: dict[str, Any] = {
        "pictures": sum(not row["recoloured"] for row in rows),
        "pictures in training": sum(not row["recoloured"] for row in trained),
        "pictures held out": len(held),
        "recoloured copies, all in training": sum(row["recoloured"] for row in rows),
        "skin-tone variants left out": packages.toned,
        "pictures with a description by the language model": sum(
            bool(descriptions.get(row["hexcode"])) for row in rows if not row["recoloured"]
        ),
        **{f"captions, {lang}": sum(len(row[f"caption_{lang}"]) for row in rows) for lang in languages},
    }
    return environment.get_template("emoji_card.md.j2").render(
        header=yaml.safe_dump(header, sort_keys=False),
        packages=packages,
        counts=counts,
        groups=Counter(row["group"] for row in rows if not row["recoloured"]),
        held={
            title: sorted(row["label_en"] for row in held if row["held_out_kind"] == kind)
            for kind, title in _KINDS.items()
        },
        held_count=len(held),
        languages=languages,
        captions=CAPTIONS,
        share=round(100 * RECOLOURED),
        seed=seed,
    )
