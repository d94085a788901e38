"""Judges a GAN of emoji by an encoder that it was not trained with: ``python -m jobs.judge_emoji MODEL JUDGE TABLE``.

MODEL and JUDGE are model URIs, TABLE is what `jobs.prepare_emoji` wrote. The judge is an image-text encoder of another
seed, trained on all captions, those of the held-out pictures too. For labels and for a wording that is in no training
caption, English and Chinese, of seen and of held-out pictures, it says how often a rendered picture is nearer to its
own words than to 99 others in the same wording (R-precision), and how often the real picture is: as good as it gets.
A judge may stumble over a wording as a GAN may; ``by label`` has it choose among the plain labels of the same language,
``by English label`` among the English ones, whatever the picture was rendered from.

``--described OUTPUT`` adds a line for the language model's own descriptions: OUTPUT is one of ``promptmill synthesize``
whose prompts are English labels (another recipe than `pipeline.emoji_descriptions` has, or the wording is no new one).
``--nearest SHEET.png`` draws samples of the fixed captions, each beside the training picture that is nearest to it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from actors.batched import embed_captions, embed_pictures, render_captions
from actors.errors import UserError
from actors.gan_measures import laplacian_energy, r_precision
from actors.gan_model import GanModel, load_gan
from actors.image_text import ImageText, load_image_text
from actors.model_uri import resolve_model
from pipeline.captioned import CaptionedRow
from pipeline.metrics.distribution import frechet_distance
from pipeline.metrics.moments import Moments
from pipeline.metrics.variety import mean_distance
from pipeline.sample_sheet import SHEET, lay_out, picture_row
from pipeline.watch_rows import WatchRows

_COLUMNS = ["image", "split", "recoloured", "held_out_kind", "label_en", "label_zh", "caption_en", "caption_zh"]
_EACH, _VARIED = 8, 100
"""Pictures of one label, and labels, that diversity is measured on."""
_CHOICE = 400
"""Words to choose from at least."""

_WIDE = 120
"""Characters of the table where no terminal says."""

WORDINGS: dict[str, Callable[[dict[str, Any]], str]] = {
    "label, en": lambda row: row["label_en"],
    "label, zh": lambda row: row["label_zh"],
    "unseen, en": lambda row: f"a cute {row['label_en']} on white background",
    "unseen, zh": lambda row: f"白色背景上一个可爱的{row['label_zh']}",
}


@dataclass(frozen=True)
class Judged:
    """One line: R-precision of rendered and real pictures over ``count`` captions, and of rendered ones by labels."""

    pictures: str
    wording: str
    count: int
    made: float
    real: float
    by_label: float
    by_english: float


def judge(
    model: GanModel,
    encoder: ImageText,
    table: Path,
    seed: int = 0,
    described: dict[str, str] | None = None,
    seen: int | None = None,
) -> tuple[list[Judged], dict[str, float]]:
    """R-precision by kind of picture and wording, and figures of the whole.

    Args:
        model: what is judged.
        encoder: the judge.
        table: what `jobs.prepare_emoji` wrote.
        seed: chooses pictures, the words to choose from, and noise.
        described: descriptions by English label, for a line of their own.
        seen: how many of the seen pictures are judged; None = all.

    Raises:
        UserError: the table is not one of `jobs.prepare_emoji`.
    """
    rows = [row for row in _read(table) if not row["recoloured"]]
    known = [row for row in rows if row["split"] == "train"]
    groups = {"seen": random.Random(seed).sample(known, len(known) if seen is None else min(len(known), seen))}
    for row in rows:
        if row["split"] != "train":
            groups.setdefault(f"held out, {row['held_out_kind']}", []).append(row)
    side, lines, figures = model.generator.config.resolution, [], {}
    asked = [(name, some, rows, wording, say) for name, some in groups.items() for wording, say in WORDINGS.items()]
    if described:
        told = [row for row in known if row["label_en"] in described]
        asked.append(("seen", told, told, "described, en", lambda row: described[row["label_en"]]))
    for name, some, all_rows, wording, say in asked:
        # Words to choose from: of these pictures, and of others where these are few.
        offered = [*some, *_others(all_rows, some, seed)]
        choice = _rows(offered, say)
        plain, english = (_rows(offered, WORDINGS[f"label, {language}"]) for language in (wording[-2:], "en"))
        pixels = _rows(some, say).pictures(side)
        drawn = render_captions(model, choice.captions[: len(some)], seed)
        real, made = embed_pictures(encoder, pixels), embed_pictures(encoder, drawn)
        shown = [(made, choice), (real, choice), (made, plain), (made, english)]
        found = [_right(encoder, pictures, words, seed) for pictures, words in shown]
        lines.append(Judged(name, wording, len(some), *found))
        if name == "seen" and wording == "label, en":
            figures = {
                "FD in the judge's features": frechet_distance(Moments.of(real.numpy()), Moments.of(made.numpy())),
                "sharpness (Laplacian energy over that of the real)": laplacian_energy(drawn)
                / laplacian_energy(pixels),
                "nearest training picture (mean cosine)": float((made @ real.T).max(dim=1).values.mean()),
                "distance among real pictures (mean 1 - cosine)": mean_distance(real.numpy()),
            }
    labels = [row["label_en"] for row in groups["seen"][:: max(1, len(groups["seen"]) // _VARIED)]]
    varied = embed_pictures(encoder, render_captions(model, [text for text in labels for _ in range(_EACH)], seed + 1))
    apart = [mean_distance(group.numpy()) for group in varied.view(len(labels), _EACH, -1)]
    figures["distance among 8 pictures of one label"] = sum(apart) / len(apart)
    return lines, figures


def nearest_sheet(model: GanModel, encoder: ImageText, table: Path, captions: Sequence[str] = SHEET) -> Image.Image:
    """Two samples of each caption, each before the training picture that the judge finds nearest to it."""
    rows = [row for row in _read(table) if row["split"] == "train"]
    real = _rows(rows, WORDINGS["label, en"]).pictures(model.generator.config.resolution)
    known, pairs = embed_pictures(encoder, real), []
    for caption in captions:
        made = picture_row(model, caption, 2)
        nearest = real[(embed_pictures(encoder, made) @ known.T).argmax(dim=1)]
        pairs.append(torch.stack([made, nearest], dim=1).flatten(0, 1))
    return lay_out(captions, pairs, 4)


def main(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="URI of the GAN")],
    judge_uri: Annotated[
        str, typer.Argument(metavar="JUDGE", help="URI of an image-text encoder not used in training")
    ],
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="what jobs.prepare_emoji wrote")],
    described: Annotated[
        Path | None, typer.Option(metavar="OUTPUT", help="output of promptmill synthesize: English labels, described")
    ] = None,
    nearest: Annotated[
        Path | None, typer.Option(metavar="SHEET.png", help="draw samples beside their nearest training pictures")
    ] = None,
    seen: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="judge so many of the seen pictures, not all")
    ] = None,
) -> None:
    """Judge a GAN of emoji by an encoder that it was not trained with."""
    gan, encoder = load_gan(resolve_model(model).path), load_image_text(resolve_model(judge_uri).path)
    if nearest is not None:
        nearest_sheet(gan, encoder, table).save(nearest)
    texts = _descriptions(described) if described else None
    lines, figures = judge(gan, encoder, table, described=texts, seen=seen)
    heads = ("pictures", "words", "n", "R-precision", "by label", "by English label", "of real pictures")
    shown = Table(*heads, title=f"{model}, 1 of 100")
    for line in lines:
        shares = [f"{share:.1%}" for share in (line.made, line.by_label, line.by_english, line.real)]
        shown.add_row(line.pictures, line.wording, str(line.count), *shares)
    console = Console()
    if not console.is_terminal:
        console.width = _WIDE  # a file has no edge to break lines at
    console.print(shown)
    for name, value in figures.items():
        console.print(f"{name}: {value:.3f}", highlight=False)


def _right(encoder: ImageText, pictures: Tensor, words: WatchRows, seed: int) -> float:
    return r_precision(pictures, embed_captions(encoder, words.captions), words.true()[: len(pictures)], seed)


def _read(table: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(table, columns=_COLUMNS).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"'{table}' is no table of jobs.prepare_emoji ({type(error).__name__})") from error
    return rows


def _descriptions(output: Path) -> dict[str, str]:
    """Accepted descriptions by prompt."""
    try:
        rows = pq.read_table(output / "data", columns=["prompt", "description", "description_status"]).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(
            f"'{output}' is no output of promptmill synthesize in Parquet ({type(error).__name__})"
        ) from error
    return {row["prompt"]: row["description"] for row in rows if row["description_status"] == "accepted"}


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
