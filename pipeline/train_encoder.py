"""Training the image-text encoder: configuration, what a worker builds, and what it measures on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from actors.seeds import derive_seed
from pipeline.caption_tokenizer import as_transformers, train_tokenizer
from pipeline.captioned import CaptionedTable
from pipeline.cluster import connected
from pipeline.config_base import Section, option, place
from pipeline.storage import Store
from pipeline.train_board import TrainBoard
from pipeline.train_job import TrainingTask, open_output, open_split, put_files, run_training
from pipeline.train_record import begin_run
from pipeline.train_settings import TrainingConfig, WatchTable

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from actors.encoder_trainer import EncoderTrainer
    from actors.training_loop import PhasePlan, Trainee, Values
    from pipeline.train_log import TrainLog
    from pipeline.watch_rows import WatchRows


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


@dataclass
class EncoderTask(TrainingTask):
    """See `pipeline.train_job.TrainingTask`."""

    config: TrainEncoderConfig
    tokenizer: Tokenizer
    shown: CaptionedTable | None
    _rows: WatchRows | None = field(default=None, init=False)

    def build(self, device: torch.device) -> EncoderTrainer:
        """The same weights in each worker, from the run's seed."""
        import torch

        from actors.encoder_trainer import EncoderSchedule, EncoderTrainer
        from actors.image_text import EncoderSizes, build_image_text

        sizes = self.config.networks.model_dump()
        sizes.pop("vocabulary")
        torch.manual_seed(derive_seed(self.config.seed, "weights"))
        encoder = build_image_text(as_transformers(self.tokenizer, sizes["max_tokens"]), EncoderSizes(**sizes))
        encoder.model.to(device)
        schedule = EncoderSchedule(**self.config.schedule.model_dump())
        return EncoderTrainer(encoder, schedule, self.config.augment.settings(), self.config.seed)

    def sizes(self) -> tuple[PreTrainedTokenizerBase, int, int]:
        """See the base."""
        networks = self.config.networks
        return as_transformers(self.tokenizer, networks.max_tokens), networks.resolution, networks.max_tokens

    def watch(self, trainee: Trainee, log: TrainLog, phase: PhasePlan, step: int) -> Values:
        """See `pipeline.retrieval`."""
        from actors.encoder_trainer import EncoderTrainer
        from pipeline.retrieval import retrieval
        from pipeline.watch_rows import choose_rows

        assert isinstance(trainee, EncoderTrainer)
        if not self.config.watch.pictures:
            return {}
        if self._rows is None:
            self._rows = choose_rows(self.shown or self.table, self.config.watch.pictures, self.config.seed)
        return retrieval(trainee.encoder, self._rows, self.config.seed)

    def finish(self, trainee: Trainee, store: Store) -> None:
        """Writes the encoder to OUTPUT/model."""
        from actors.encoder_trainer import EncoderTrainer

        assert isinstance(trainee, EncoderTrainer)
        with store.scratch() as directory:
            trainee.encoder.save(directory)
            put_files(store, directory, "model")


def train_encoder(config: TrainEncoderConfig, *, fresh: bool, address: str | None, quiet: bool, debug: bool) -> str:
    """Trains, or goes on; returns the model's URI. See `pipeline.train_job.run_training` for what it raises."""
    table = open_split(config, config.data.split)
    shown = open_split(config, config.watch.split) if config.watch.split else None
    captions = (caption for row in table.captions() for caption in row)
    tokenizer = train_tokenizer(captions, config.networks.vocabulary)
    store = open_output(config)
    with connected(address, config.cluster, debug):
        identity = {"config": config.identity(), "table": table.content}
        begin_run(store, identity, config.workers.model_dump(), fresh=fresh)
        run_training(EncoderTask(config, TrainBoard(), table, tokenizer, shown), quiet=quiet)
    return store.public("model")
