"""Judges a GAN of emoji by an encoder that it was not trained with: ``python -m jobs.judge_emoji MODEL JUDGE TABLE``.

MODEL and JUDGE are model URIs, TABLE is what `jobs.prepare_emoji` wrote. The judge is an image-text encoder of another
seed, trained on all captions, those of the held-out pictures too. For labels and for a wording that is in no training
caption, English and Chinese, of seen and of held-out pictures, it says how often a rendered picture is nearer to its
own words than to 99 others in the same wording (R-precision), and how often the real picture is: as good as it gets.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from actors.batched import embed_captions, embed_pictures, render_captions
from actors.errors import UserError
from actors.gan_measures import frechet_distance, laplacian_energy, mean_distance, r_precision
from actors.gan_model import GanModel, load_gan
from actors.image_text import ImageText, load_image_text
from actors.model_uri import resolve_model
from pipeline.captioned import CaptionedRow
from pipeline.watch_rows import WatchRows

_COLUMNS = ["image", "split", "recoloured", "held_out_kind", "label_en", "label_zh", "caption_en", "caption_zh"]
_EACH, _VARIED = 8, 100
"""Pictures of one label, and labels, that diversity is measured on."""
_CHOICE = 400
_SEEN = 400
"""Words to choose from at least, and seen pictures that are judged."""

WORDINGS: dict[str, Callable[[dict[str, Any]], str]] = {
    "label, en": lambda row: row["label_en"],
    "label, zh": lambda row: row["label_zh"],
    "unseen, en": lambda row: f"a cute {row['label_en']} on white background",
    "unseen, zh": lambda row: f"白色背景上一个可爱的{row['label_zh']}",
}


@dataclass(frozen=True)
class Judged:
    """One line: R-precision of rendered and of real pictures, over ``count`` captions."""

    pictures: str
    wording: str
    count: int
    made: float
    real: float


def judge(model: GanModel, encoder: ImageText, table: Path, seed: int = 0) -> tuple[list[Judged], dict[str, float]]:
    """R-precision by kind of picture and wording, and figures of the whole.

    Raises:
        UserError: the table is not one of `jobs.prepare_emoji`.
    """
    try:
        rows = pq.read_table(table, columns=_COLUMNS).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"'{table}' is no table of jobs.prepare_emoji ({type(error).__name__})") from error
    rows = [row for row in rows if not row["recoloured"]]
    seen = [row for row in rows if row["split"] == "train"]
    groups = {"seen": random.Random(seed).sample(seen, min(len(seen), _SEEN))}
    for row in rows:
        if row["split"] != "train":
            groups.setdefault(f"held out, {row['held_out_kind']}", []).append(row)
    side, lines, figures = model.generator.config.resolution, [], {}
    for name, some in groups.items():
        for wording, say in WORDINGS.items():
            # Words to choose from: of these pictures, and of others where these are few.
            asked = _rows([*some, *_others(rows, some, seed)], say)
            words, true = embed_captions(encoder, asked.captions), asked.true()[: len(some)]
            pixels = _rows(some, say).pictures(side)
            drawn = render_captions(model, asked.captions[: len(some)], seed)
            real, made = embed_pictures(encoder, pixels), embed_pictures(encoder, drawn)
            found = [r_precision(pictures, words, true, seed) for pictures in (made, real)]
            lines.append(Judged(name, wording, len(some), *found))
            if name == "seen" and wording == "label, en":
                figures = {
                    "FD in the judge's features": frechet_distance(real, made),
                    "sharpness (Laplacian energy over that of the real)": laplacian_energy(drawn)
                    / laplacian_energy(pixels),
                    "nearest training picture (mean cosine)": float((made @ real.T).max(dim=1).values.mean()),
                    "distance among real pictures (mean 1 - cosine)": mean_distance(real[None]),
                }
    labels = [row["label_en"] for row in groups["seen"][:: max(1, len(groups["seen"]) // _VARIED)]]
    varied = embed_pictures(encoder, render_captions(model, [text for text in labels for _ in range(_EACH)], seed + 1))
    figures["distance among 8 pictures of one label"] = mean_distance(varied.view(len(labels), _EACH, -1))
    return lines, figures


def main(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="URI of the GAN")],
    judge_uri: Annotated[
        str, typer.Argument(metavar="JUDGE", help="URI of an image-text encoder not used in training")
    ],
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="what jobs.prepare_emoji wrote")],
) -> None:
    """Judge a GAN of emoji by an encoder that it was not trained with."""
    lines, figures = judge(load_gan(resolve_model(model).path), load_image_text(resolve_model(judge_uri).path), table)
    shown = Table("pictures", "words", "n", "R-precision", "of real pictures", title=f"{model}, 1 of 100")
    for line in lines:
        shown.add_row(line.pictures, line.wording, str(line.count), f"{line.made:.1%}", f"{line.real:.1%}")
    console = Console()
    console.print(shown)
    for name, value in figures.items():
        console.print(f"{name}: {value:.3f}", highlight=False)


def _rows(rows: Sequence[dict[str, Any]], say: Callable[[dict[str, Any]], str]) -> WatchRows:
    captions = [say(row) for row in rows]
    return WatchRows(
        [
            CaptionedRow(row["image"]["bytes"], row["image"]["path"], _true(row, caption), ())
            for row, caption in zip(rows, captions, strict=True)
        ],
        captions,
    )


def _true(row: dict[str, Any], caption: str) -> tuple[str, ...]:
    """What is true of a picture: its captions, the one asked for, and its labels in each wording."""
    return (*row["caption_en"], *row["caption_zh"], caption, *(say(row) for say in WORDINGS.values()))


def _others(rows: list[dict[str, Any]], some: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    kept = {id(row) for row in some}
    others = [row for row in rows if id(row) not in kept]
    return random.Random(seed).sample(others, min(len(others), max(0, _CHOICE - len(some))))


if __name__ == "__main__":
    from jobs.cli import guarded

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(main)
    sys.exit(guarded(lambda: app(sys.argv[1:]), debug=False))
