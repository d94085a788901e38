"""Training the image-text encoder: what a worker builds, and what it measures on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from actors.seeds import derive_seed
from pipeline.caption_tokenizer import as_transformers, train_tokenizer
from pipeline.captioned import CaptionedTable
from pipeline.cluster import connected
from pipeline.encoder_config import TrainEncoderConfig
from pipeline.storage import Store
from pipeline.train_board import TrainBoard
from pipeline.train_job import TrainingTask, open_output, open_split, put_files, run_training
from pipeline.train_record import begin_run

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from actors.encoder_trainer import EncoderTrainer
    from actors.training_loop import PhasePlan, Trainee, Values
    from pipeline.train_log import TrainLog
    from pipeline.watch_rows import WatchRows


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

    def finish(self, trainee: Trainee, store: Store) -> dict[str, int]:
        """Writes the encoder to OUTPUT/model."""
        from actors.encoder_trainer import EncoderTrainer

        assert isinstance(trainee, EncoderTrainer)
        with store.scratch() as directory:
            trainee.encoder.save(directory)
            return put_files(store, directory, "model")


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
