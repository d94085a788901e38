"""The typed configuration of a GAN training run."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import Section, option, place


class Networks(Section):
    """Sizes of the networks (see `actors.networks.GanConfig`)."""

    text_dim: int = option(192, "width of the text encoder and of the condition vector", ge=8)
    noise_dim: int = option(64, "numbers in z", ge=1)
    latent_channels: int = option(16, "channels of the 8x8 latent", ge=1)
    stem_width: int = option(896, "width of G's lower half", ge=8)
    stem_blocks: int = option(2, "residual blocks of G's lower half", ge=1)
    widths: tuple[int, ...] = option((128, 80, 56), "channels from 8x8 upwards; each one doubles the resolution")
    vocabulary: int = option(5120, "tokens of the tokenizer trained on the captions", ge=300)


class Schedule(Section):
    """How long and how hard; three numbers are for autoencoder, regression and adversarial phase."""

    steps: tuple[int, int, int] = option((1700, 1600, 400), "optimiser steps of the three phases")
    batch: tuple[int, int, int] = option((32, 256, 32), "pictures in a step of the three phases")
    rate: tuple[float, float, float] = option((2e-3, 1e-3, 2e-4), "peak learning rates of the three phases")
    noises: int = option(4, "noises tried for each caption; the nearest is taught", ge=1)
    gamma: float = option(2.0, "weight of the gradient penalties R1 and R2", ge=0)
    lazy: int = option(4, "steps between two with gradient penalties", ge=1)
    match: float = option(0.5, "weight of the pairs with wrong words", ge=0)
    adversarial: float = option(0.05, "weight of the game beside the reconstruction in G's loss", ge=0)
    ema: float = option(0.995, "decay of G's moving average", ge=0, lt=1)
    checkpoint_every: int = place(200, "steps between two checkpoints", ge=1)


class TrainGanConfig(Section):
    """Captioned pictures in, a model directory for ``generate.model`` out."""

    seed: int = option(0, "seed of weights, order, captions and noise", ge=0)
    data: Path = place(Path("emoji.parquet"), "the table that jobs.prepare_emoji writes")
    output: Path = place(Path("out/gan"), "directory of checkpoints, sample sheets, log and the finished model")
    start: str | None = option(None, "model URI to go on from, of the same sizes (they and the tokenizer are its own)")
    threads: int | None = place(None, "CPU threads; null = torch's default", ge=1)
    networks: Networks = option(Networks(), "sizes of the networks")
    schedule: Schedule = option(Schedule(), "how long and how hard")
    sheet: list[str] = place([], "captions of the sample sheet; empty = the shipped two dozen")
