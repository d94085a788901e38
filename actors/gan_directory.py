"""What the directory of a GAN says of itself before any network is loaded; imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from actors.errors import UserError

if TYPE_CHECKING:
    from actors.networks import Task


def task_of(directory: Path) -> Task:
    """What a model is given beside words and noise; ``words`` for a directory that is no GAN of this project."""
    try:
        config = json.loads((one_model(directory) / "config.json").read_text())
        task: Task = config["networks"].get("task", "words")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UserError):
        return "words"
    return task


def one_model(directory: Path) -> Path:
    """The directory of the one model that lies there or right below; raises `UserError` where it is none or several."""
    if (directory / "config.json").is_file():
        return directory
    found = sorted(path.parent for path in directory.glob("*/generator.safetensors"))
    if len(found) != 1:
        raise UserError(
            f"'{directory}' holds no GAN (config.json and generator.safetensors); mend generate.model"
            if not found
            else f"'{directory}' holds several models ({', '.join(p.name for p in found)}); name one of them"
        )
    return found[0]
