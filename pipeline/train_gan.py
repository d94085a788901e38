"""Training the text-conditional GAN: what a worker builds, what it shows and measures on the way, what it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

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
from pipeline.server_side_encryption import with_sse
from pipeline.storage import Store
from pipeline.train_board import TrainBoard
from pipeline.train_encoder import put_files
from pipeline.train_job import TrainingTask, open_output, open_split, run_training
from pipeline.train_log import TrainLog
from pipeline.train_record import begin_run
from pipeline.train_start import Start, find_start


@dataclass
class GanTask(TrainingTask):
    """See `pipeline.train_job.TrainingTask`. ``shown`` are the pictures that are measured against, None for none."""

    config: TrainGanConfig
    tokenizer: PreTrainedTokenizerFast
    max_tokens: int
    shown: CaptionedTable | None
    start: Start | None = None
    _watch: GanWatch | None = field(default=None, init=False)

    def build(self, device: torch.device) -> GanTrainer:
        """The same weights in each worker, from the run's seed."""
        config = self.config
        found = resolve_model(config.encoder, allow_unsafe=config.allow_unsafe_models)
        encoder = load_image_text(found.path, trusted=found.trusted)
        encoder.model.to(device)
        torch.manual_seed(derive_seed(config.seed, "weights"))
        sizes = config.sizes(encoder.model.config.text_config.hidden_size)
        schedule = config.schedule()
        if self.start is not None:
            # A D that has played before keeps what it has learned.
            warm = schedule.warm_critic and not self.start.game
            schedule = replace(schedule, coder=schedule.coder or self.start.coder, warm_critic=warm)
        trainer = GanTrainer(encoder, sizes, schedule, config.augment.settings(), config.seed, device)
        if self.start is not None:
            self.start.load(trainer)
        return trainer

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
    encoder = resolve_model(config.encoder, allow_unsafe=config.allow_unsafe_models)
    table = open_split(config, config.data.split)
    shown = open_split(config, config.watch.split) if config.watch.split else None
    loaded = load_image_text(encoder.path, trusted=encoder.trusted)
    tokens = loaded.model.config.text_config.max_position_embeddings
    start = (
        find_start(config.start, encoder.sha256, with_sse(config.output.options, config.output.sse))
        if config.start
        else None
    )
    # Encoder and start are what they hold, wherever they lie.
    told = {key: value for key, value in config.identity().items() if key not in {"encoder", "start"}}
    identity: dict[str, Any] = {"config": told, "table": table.content, "encoder": encoder.sha256}
    if start is not None:
        identity |= {"start": start.sha256, "coder": start.coder or bool(config.autoencoder.steps)}
    store = open_output(config)
    with connected(address, config.cluster, debug):
        begin_run(store, identity, config.workers.model_dump(), fresh=fresh)
        # A run holds all that its export needs, wherever the encoder goes.
        put_files(store, encoder.path, "encoder")
        run_training(GanTask(config, TrainBoard(), table, loaded.tokenizer, tokens, shown, start), quiet=quiet)
    return store.public("model")
