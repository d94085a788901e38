"""Training the text-conditional GAN: what a worker builds, what it shows and measures on the way, what it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from actors.model_uri import resolve_model
from actors.seeds import derive_seed
from pipeline.captioned import CaptionedTable
from pipeline.cluster import connected
from pipeline.gan_config import TrainGanConfig
from pipeline.server_side_encryption import with_sse
from pipeline.storage import Store
from pipeline.train_board import TrainBoard
from pipeline.train_job import TrainingTask, open_output, open_split, put_files, run_training
from pipeline.train_record import begin_run
from pipeline.train_start import Start, find_start

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from actors.gan_trainer import GanTrainer
    from actors.image_text import ImageText
    from actors.training_loop import PhasePlan, Trainee, Values
    from pipeline.gan_watch import GanWatch
    from pipeline.train_log import TrainLog


@dataclass
class GanTask(TrainingTask):
    """See `pipeline.train_job.TrainingTask`. ``shown`` are the pictures that are measured against, None for none."""

    config: TrainGanConfig
    shown: CaptionedTable | None
    start: Start | None = None
    _encoder: ImageText | None = field(default=None, init=False)
    _watch: GanWatch | None = field(default=None, init=False)

    def build(self, device: torch.device) -> GanTrainer:
        """The same weights in each worker, from the run's seed."""
        import torch

        from actors.gan_trainer import GanTrainer
        from actors.image_text import load_image_text

        config = self.config
        found = resolve_model(config.encoder, allow_unsafe=config.allow_unsafe_models)
        self._encoder = encoder = load_image_text(found.path, trusted=found.trusted)
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

    def sizes(self) -> tuple[PreTrainedTokenizerBase, int, int]:
        """See the base."""
        assert self._encoder is not None, "a trainer was built"
        tokens = self._encoder.model.config.text_config.max_position_embeddings
        return self._encoder.tokenizer, self.config.sizes(1).resolution, tokens

    def watch(self, trainee: Trainee, log: TrainLog, phase: PhasePlan, step: int) -> Values:
        """A sample sheet and measures, once there is something to see."""
        from actors.gan_trainer import GanTrainer
        from pipeline.gan_watch import GanWatch

        assert isinstance(trainee, GanTrainer)
        if phase.name == "autoencoder":
            return {}
        if self._watch is None:
            self._watch = GanWatch(self.config.watch, self.shown or self.table, trainee.encoder, self.config.seed)
        log.sheet(phase.name, step, self._watch.sheet(trainee.model()))
        return self._watch.measure(trainee.model())

    def finish(self, trainee: Trainee, store: Store) -> dict[str, int]:
        """Writes the model to OUTPUT/model."""
        from actors.gan_trainer import GanTrainer
        from pipeline.export import write_model

        assert isinstance(trainee, GanTrainer)
        with store.scratch() as directory:
            write_model(trainee.model(), store, directory)
            return put_files(store, directory, "model")


def train_gan(config: TrainGanConfig, *, fresh: bool, address: str | None, quiet: bool, debug: bool) -> str:
    """Trains, or goes on; returns the model's URI. See `pipeline.train_job.run_training` for what it raises."""
    config = config.settled()
    encoder = resolve_model(config.encoder, allow_unsafe=config.allow_unsafe_models)
    table = open_split(config, config.data.split)
    shown = open_split(config, config.watch.split) if config.watch.split else None
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
        run_training(GanTask(config, TrainBoard(), table, shown, start), quiet=quiet)
    return store.public("model")
