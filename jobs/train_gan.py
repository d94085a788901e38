"""Trains the text-conditional GAN: ``python -m jobs.train_gan CONFIG.yaml [section.key=value ...]``.

The same command resumes from the last checkpoint. The finished model is ``OUTPUT/model``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from actors.errors import UserError
from actors.gan_model import load_gan
from actors.gan_trainer import GanTrainer, TrainSettings
from actors.model_uri import resolve_model
from actors.networks import GanConfig
from pipeline.config_file import load_config
from pipeline.picture_set import PictureSet, train_tokenizer
from pipeline.sample_sheet import SHEET, draw_sheet
from pipeline.train_config import TrainGanConfig


def run(config_path: Path | None, overrides: list[str]) -> None:
    """Trains, and writes log, sample sheet and model."""
    config = load_config(TrainGanConfig, config_path, overrides)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    sizes = config.networks.model_dump()
    vocabulary = sizes.pop("vocabulary")
    networks = GanConfig(**sizes)
    pictures = PictureSet(config.data, networks.resolution)
    start = load_gan(resolve_model(config.start).path) if config.start else None
    if start is not None and start.generator.config != networks:
        raise UserError(f"the sizes of '{config.start}' are not those of networks.*: {start.generator.config}")
    tokenizer = start.tokenizer if start else train_tokenizer(pictures, vocabulary, config.seed)
    settings = TrainSettings(**config.schedule.model_dump(), seed=config.seed)
    config.output.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()

    def log(phase: str, step: int, values: dict[str, float]) -> None:
        line = {"phase": phase, "step": step, **{name: round(value, 5) for name, value in values.items()}}
        with (config.output / "log.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        print(f"{time.monotonic() - begun:7.0f} s  {phase} {step}: {shown}", file=sys.stderr, flush=True)

    trainer = GanTrainer(pictures, tokenizer, networks, settings, config.output / "checkpoints", log, start)
    model = trainer.run()
    model.save(config.output / "model", training=config.identity())
    draw_sheet(model, list(config.sheet) or SHEET, config.output / "sheet.png")
    print(f"{config.output / 'model'}: render with generate.model={config.output / 'model'}")


if __name__ == "__main__":
    from jobs.cli import guarded, split

    words = sys.argv[1:]
    sys.exit(guarded(lambda: run(*split(words[0] if words else None, words[1:])), debug=False))
