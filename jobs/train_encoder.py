"""Trains the image-text encoder: ``python -m jobs.train_encoder CONFIG.yaml [section.key=value ...]``.

The same command goes on from the last whole checkpoint; ``--fresh`` starts over.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from actors.errors import UserError
from pipeline.config_file import load_config
from pipeline.inert_text import printable


def run(
    config_path: Path | None, overrides: list[str], *, fresh: bool, address: str | None, quiet: bool, debug: bool
) -> None:
    """Loads the config, trains, prints where the model is."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("training needs the extra `train`: pip install 'promptmill[train]'")
    from pipeline.encoder_config import TrainEncoderConfig
    from pipeline.train_encoder import train_encoder

    config = load_config(TrainEncoderConfig, config_path, overrides)
    model = train_encoder(config, fresh=fresh, address=address, quiet=quiet, debug=debug)
    print(f"{printable(model)}: an image-text encoder; transformers' CLIPModel and CLIPProcessor load it")


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["train-encoder", *sys.argv[1:]]))
