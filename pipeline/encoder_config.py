"""The typed configuration of a training run of the image-text encoder."""

from __future__ import annotations

from pipeline.config_base import Section, option, place
from pipeline.train_settings import TrainingConfig, WatchTable


class EncoderNetworks(Section):
    """Sizes of the encoder (see `actors.image_text.EncoderSizes`)."""

    resolution: int = option(64, "side of the pictures in pixels", ge=8, le=1024)
    patch: int = option(8, "side of the image tower's patches in pixels", ge=1)
    image_width: int = option(144, "width of the image tower; a multiple of 48", ge=48, multiple_of=48)
    image_layers: int = option(4, "layers of the image tower", ge=1)
    text_width: int = option(192, "width of the text tower; a multiple of 48", ge=48, multiple_of=48)
    text_layers: int = option(3, "layers of the text tower", ge=1)
    embedding: int = option(192, "numbers of a picture or a text in the common space", ge=8)
    max_tokens: int = option(48, "tokens of a text at most", ge=8, le=1024)
    vocabulary: int = option(5120, "tokens of the tokenizer trained on the captions", ge=300)


class EncoderScheduleConfig(Section):
    """How long and how hard."""

    steps: int = option(1500, "optimiser steps", ge=1)
    batch: int = option(256, "pictures in a step, over all workers; a multiple of data.lanes", ge=2)
    rate: float = option(1e-3, "peak learning rate (AdamW)", gt=0)
    decay: float = option(0.05, "weight decay", ge=0)
    word_dropout: float = option(0.1, "share of the words hidden in training", ge=0, lt=1)


class TrainEncoderConfig(TrainingConfig):
    """Captioned pictures in, an image-text encoder (a `transformers` CLIPModel) out."""

    networks: EncoderNetworks = option(EncoderNetworks(), "sizes of the encoder")
    schedule: EncoderScheduleConfig = option(EncoderScheduleConfig(), "how long and how hard")
    watch: WatchTable = place(WatchTable(), "what is measured on the way")
