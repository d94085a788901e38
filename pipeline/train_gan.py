"""Training the text-conditional GAN: what a worker builds, what it shows and measures on the way, what it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import PreTrainedTokenizerFast

from actors.gan_trainer import GanTrainer
from actors.image_text import load_image_text
from actors.model_uri import resolve_model
from actors.seeds import derive_seed
from actors.training_loop import PhasePlan, Trainee, Values
from pipeline.captioned import CaptionedTable
from pipeline.cluster import connected
from pipeline.export import write_model
from pipeline.gan_config import TrainGanConfig
from pipeline.gan_watch import GanWatch
from pipeline.storage import Store
from pipeline.train_board import TrainBoard
from pipeline.train_encoder import put_files
from pipeline.train_job import TrainingTask, open_output, open_split, run_training
from pipeline.train_log import TrainLog
from pipeline.train_record import begin_run


@dataclass
class GanTask(TrainingTask):
    """See `pipeline.train_job.TrainingTask`. ``shown`` are the pictures that are measured against, None for none."""

    config: TrainGanConfig
    tokenizer: PreTrainedTokenizerFast
    max_tokens: int
    shown: CaptionedTable | None
    _watch: GanWatch | None = field(default=None, init=False)

    def build(self, device: torch.device) -> GanTrainer:
        """The same weights in each worker, from the run's seed."""
        config = self.config
        encoder = load_image_text(resolve_model(config.encoder).path)
        encoder.model.to(device)
        torch.manual_seed(derive_seed(config.seed, "weights"))
        sizes = config.sizes(encoder.model.config.text_config.hidden_size)
        return GanTrainer(encoder, sizes, config.schedule(), config.augment.settings(), config.seed, device)

    def sizes(self) -> tuple[PreTrainedTokenizerFast, int, int]:
        """See the base."""
        return self.tokenizer, self.config.sizes(1).resolution, self.max_tokens

    def watch(self, trainee: Trainee, log: TrainLog, phase: PhasePlan, step: int) -> Values:
        """A sample sheet and measures, once there is something to see."""
        assert isinstance(trainee, GanTrainer)
        if phase.name == "autoencoder":
            return {}
        if self._watch is None:
            self._watch = GanWatch(self.config.watch, self.shown or self.table, trainee.encoder, self.config.seed)
        log.sheet(phase.name, step, self._watch.sheet(trainee.model()))
        return self._watch.measure(trainee.model())

    def finish(self, trainee: Trainee, store: Store) -> None:
        """Writes the model to OUTPUT/model."""
        assert isinstance(trainee, GanTrainer)
        with store.scratch() as directory:
            write_model(trainee.model(), store, directory)
            put_files(store, directory, "model")


def train_gan(config: TrainGanConfig, *, fresh: bool, address: str | None, quiet: bool, debug: bool) -> str:
    """Trains, or goes on; returns the model's URI. See `pipeline.train_job.run_training` for what it raises."""
    config = config.settled()
    encoder = resolve_model(config.encoder)
    table = open_split(config, config.data.split)
    shown = open_split(config, config.watch.split) if config.watch.split else None
    loaded = load_image_text(encoder.path)
    tokens = loaded.model.config.text_config.max_position_embeddings
    # The encoder is what it holds, wherever it lies.
    told = {key: value for key, value in config.identity().items() if key != "encoder"}
    identity = {"config": told, "table": table.content, "encoder": encoder.sha256}
    store = open_output(config)
    with connected(address, config.cluster, debug):
        begin_run(store, identity, config.workers.model_dump(), fresh=fresh)
        # A run holds all that its export needs, wherever the encoder goes.
        put_files(store, encoder.path, "encoder")
        run_training(GanTask(config, TrainBoard(), table, loaded.tokenizer, tokens, shown), quiet=quiet)
    return store.public("model")
