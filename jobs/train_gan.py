"""Trains the text-conditional GAN: ``python -m jobs.train_gan CONFIG.yaml [section.key=value ...]``.

The same command goes on from the last whole checkpoint; ``--fresh`` starts over. The model is ``OUTPUT/model``.
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
    from pipeline.gan_config import TrainGanConfig
    from pipeline.train_gan import train_gan

    config = load_config(TrainGanConfig, config_path, overrides)
    model = train_gan(config, fresh=fresh, address=address, quiet=quiet, debug=debug)
    print(f"{printable(model)}: render with generate.model={printable(model)}")


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["train-gan", *sys.argv[1:]]))
