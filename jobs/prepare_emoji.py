"""The embedded training set: ``python -m jobs.prepare_emoji PICTURES.tgz WORDS.tgz OUT.parquet``.

The first two arguments are the npm packages ``emoji-datasource-google`` and ``emojibase-data``, as ``npm pack`` makes
them. What comes out is a captioned image table (`pipeline.emoji_table`) and its card, ``OUT.md``.

The split: 100 pictures are held out in ``split = held_out`` and never trained on. 45 are people of a role and a gender
that are both in training, but not together (``woman firefighter``: the man is, and the one of no gender). About a dozen
are shapes in a colour, of which other colours of the shape are in training; no recoloured copy shows them. The others
are things of their own from all groups. `pipeline.held_out` has the rules; the card lists the names.

Descriptions are read from the shipped file; ``--describe`` has the project's own expander write what is missing from
``OUT.descriptions.txt``, and started again it goes on where it ended.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import typer

from actors.errors import UserError
from jobs.printing import tell
from pipeline.emoji import read_packages
from pipeline.emoji_card import render_emoji_card
from pipeline.emoji_descriptions import SHIPPED, Writer, read_descriptions, shipped_writer, write_descriptions
from pipeline.emoji_table import HELD_OUT, make_table
from pipeline.held_out import TOTAL, choose_held_out
from pipeline.recolour import on_white, twins


def run(
    pictures: Path,
    words: Path,
    target: Path,
    *,
    languages: Sequence[str] = ("en", "zh"),
    seed: int = 0,
    describe: bool = False,
    descriptions: Path | None = None,
    held_out: int = TOTAL,
    build: Callable[[], Writer] = shipped_writer,
) -> None:
    """Writes the table and its card, and says how many pictures they have.

    Args:
        pictures: the npm package emoji-datasource-google, packed or not.
        words: the npm package emojibase-data.
        target: the Parquet file; card and descriptions lie beside it.
        languages: of the captions, as emojibase names its folders.
        seed: of split and captions.
        describe: have the language model describe what ``OUT.descriptions.txt`` has not.
        descriptions: a file of descriptions in place of the shipped one.
        held_out: how many pictures are held out.
        build: loads the language model.

    Raises:
        UserError: wrong packages, an unknown language, no such descriptions.
    """
    if describe and descriptions is not None:
        raise UserError("--describe writes descriptions, --descriptions reads them: give one of the two")
    if (
        not languages
        or len(set(languages)) != len(languages)
        or not all(lang and "/" not in lang for lang in languages)
    ):
        raise UserError(f"--languages has to name each language once, as in en,zh,ja; it is '{','.join(languages)}'")
    packages = read_packages(pictures, words, languages)
    emoji = packages.emoji
    labels = {entry.hexcode: entry.labels["en"] for entry in emoji}
    target.parent.mkdir(parents=True, exist_ok=True)
    if describe:
        described = write_descriptions(labels, target.with_suffix(".descriptions.txt"), build, tell)
    else:
        described = read_descriptions(descriptions or SHIPPED, labels)
    pixels = [on_white(entry.png) for entry in emoji]
    held = choose_held_out(emoji, twins(pixels), seed, held_out)
    table = make_table(emoji, pixels, held, described, languages, seed)
    part = target.with_name(f"{target.name}.part")
    pq.write_table(table, part, compression="zstd")
    part.replace(target)  # whoever waits for the table finds a whole one
    target.with_suffix(".md").write_text(
        render_emoji_card(table, packages, described, languages, seed), encoding="utf-8"
    )
    copies = sum(table["recoloured"].to_pylist())
    kept_out = table["split"].to_pylist().count(HELD_OUT)
    print(f"{target}: {table.num_rows - copies} pictures, {kept_out} of them held out, and {copies} recoloured ones")


def main(
    pictures: Annotated[Path, typer.Argument(metavar="PICTURES.tgz", help="npm package emoji-datasource-google")],
    words: Annotated[Path, typer.Argument(metavar="WORDS.tgz", help="npm package emojibase-data")],
    target: Annotated[Path, typer.Argument(metavar="OUT.parquet", help="the table; its card is OUT.md")],
    languages: Annotated[str, typer.Option(help="of the captions, as in en,zh,ja")] = "en,zh",
    seed: Annotated[int, typer.Option(help="of split and captions")] = 0,
    describe: Annotated[bool, typer.Option("--describe", help="have the language model write descriptions")] = False,
    descriptions: Annotated[Path | None, typer.Option(help="file of descriptions in place of the shipped one")] = None,
) -> None:
    """Make the embedded training set from two npm packages."""
    run(
        pictures, words, target,
        languages=[lang.strip() for lang in languages.split(",")],
        seed=seed, describe=describe, descriptions=descriptions,
    )  # fmt: skip


if __name__ == "__main__":
    from jobs.cli import guarded

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(main)
    sys.exit(guarded(lambda: app(sys.argv[1:]), debug=False))
