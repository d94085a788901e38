"""The typed configuration of a GAN training run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from actors.errors import UserError
from pipeline.config_base import Section, option, place
from pipeline.train_settings import TrainingConfig, WatchTable

if TYPE_CHECKING:
    # Imported where they are built: whoever asks for --help need not wait for torch.
    from actors.gan_schedule import GanSchedule
    from actors.networks import GanConfig


class Networks(Section):
    """Sizes of the networks (see `actors.networks.GanConfig`); the pictures' side is 8 * 2 ** len(widths)."""

    noise_dim: int = option(64, "numbers in z; the first 7 are the changes of the training pictures", ge=1)
    latent_channels: int = option(16, "channels of the 8x8 latent", ge=1)
    stem_width: int = option(896, "width of G's lower half", ge=8)
    stem_blocks: int = option(2, "residual blocks of G's lower half", ge=1)
    widths: tuple[int, ...] = option(
        (128, 80, 56), "channels from 8x8 upwards, 2 to 5 of them for pictures of 32 to 256 pixels", min_length=1
    )
    task: Literal["words", "inpainting", "restoration"] = option(
        "words", "what G is given beside words and noise: nothing, a picture with a hole, or a damaged picture"
    )


class Autoencoder(Section):
    """Warm start, first part: G's upper half learns to reproduce the pictures."""

    steps: int | None = option(None, "optimiser steps; null = 1700 on CPUs, none on GPUs and for other tasks", ge=0)
    batch: int = option(32, "pictures in a step, over all workers", ge=1)
    rate: float = option(2e-3, "peak learning rate", gt=0)


class Regression(Section):
    """Warm start, second part: words and noise -> the autoencoder's latents."""

    steps: int | None = option(None, "optimiser steps; null = 4000 on CPUs, none on GPUs and for other tasks", ge=0)
    batch: int = option(256, "pictures in a step, over all workers", ge=1)
    rate: float = option(1e-3, "peak learning rate", gt=0)
    noises: int = option(4, "noises tried for each caption; the nearest is taught, here and in the game", ge=1)


class Adversarial(Section):
    """The game of G and D, R3GAN's recipe (see `actors.objective` for the terms)."""

    steps: int = option(20_000, "optimiser steps", ge=0)
    batch: int = option(32, "pictures in a step, over all workers", ge=2)
    rate: float = option(2e-4, "peak learning rate of G", gt=0)
    critic_rate: float = option(2e-4, "peak learning rate of D", gt=0)
    gamma: float = option(2.0, "weight of the gradient penalties R1 and R2 at the beginning", ge=0)
    gamma_last: float = option(0.2, "their weight at the end", ge=0)
    lazy: int = option(1, "steps between two with penalties, which are then as much stronger", ge=1)
    match: float = option(0.5, "weight of the pairs with wrong words in D's loss", ge=0)
    weight: float = option(1.0, "weight of the game in G's loss; 0 trains without D (a control)", ge=0)
    reconstruction: float = option(0.0, "weight of the distance to the training picture in G's loss", ge=0)
    similarity: float = option(0.0, "weight of 1 - cosine of picture and words in the frozen encoder", ge=0)
    free: float = option(
        0.0,
        "share of the pictures drawn with any noise, as rendering does, and judged by D alone; for the others the "
        "noise nearest to their training picture is chosen",
        ge=0, lt=1,
    )  # fmt: skip
    ramp: int = option(0, "steps over which the weight of the game rises from 0, so that D learns first", ge=0)
    warm_critic: bool = option(
        True, "D's lower layers begin as the autoencoder's, where there is one: it sees edges and parts at once"
    )
    ema: float = option(0.999, "decay of G's moving average", ge=0, lt=1)


class Compute(Section):
    """How a step is computed."""

    accumulate: int = option(1, "micro-batches that a worker cuts its share of a step into", ge=1)
    precision: Literal["float32", "bfloat16"] = option("float32", "of the forward passes; weights stay float32")
    compile: bool = option(False, "torch.compile for G and the autoencoder (not D: it is differentiated twice)")


class Watch(WatchTable):
    """What is shown and measured every ``cadence.watch`` steps."""

    sheet: list[str] = place([], "captions of the sample sheet; empty = captions of the table")
    columns: int = place(4, "captions side by side on the sheet", ge=1)
    each: int = place(4, "pictures of each caption", ge=1)


class TrainGanConfig(TrainingConfig):
    """Captioned pictures and an image-text encoder in, a model directory for ``generate.model`` out."""

    encoder: str = option("package:promptmill/encoder", "URI of the image-text encoder: words for G, a judge for both")
    start: str | None = option(
        None,
        "training run (its newest checkpoint), or RUN/checkpoints/NAME, whose networks this run begins with; "
        "null = new ones",
    )
    networks: Networks = option(Networks(), "sizes of the networks")
    autoencoder: Autoencoder = option(Autoencoder(), "warm start, first part")
    regression: Regression = option(Regression(), "warm start, second part")
    adversarial: Adversarial = option(Adversarial(), "the game")
    compute: Compute = option(Compute(), "how a step is computed")
    watch: Watch = place(Watch(), "what is measured on the way")
    allow_unsafe_models: bool = place(
        False, "load an encoder whose weights are a pickle: it can run any code; also --allow-unsafe-models"
    )

    def settled(self) -> TrainGanConfig:
        """The same with the steps of the warm start settled, which depend on where it runs and for what.

        Raises:
            UserError: a warm start for a task that has none, or batches that cannot be cut.
        """
        warm = self.workers.gpus == 0 and self.networks.task == "words" and self.start is None
        steps = {
            "autoencoder": self.autoencoder.steps if self.autoencoder.steps is not None else 1700 * warm,
            "regression": self.regression.steps if self.regression.steps is not None else 4000 * warm,
        }
        if self.networks.task != "words" and any(steps.values()):
            raise UserError(
                f"networks.task={self.networks.task} has no warm start: leave out autoencoder and regression"
            )
        if steps["regression"] and not steps["autoencoder"] and self.start is None:
            raise UserError("regression.steps needs an autoencoder to regress to: set autoencoder.steps too")
        if not self.adversarial.weight and not self.adversarial.reconstruction and self.adversarial.steps:
            raise UserError("adversarial.weight and adversarial.reconstruction are both 0: G would learn nothing")
        for name, count in (("autoencoder", steps["autoencoder"]), ("regression", steps["regression"]),
                            ("adversarial", self.adversarial.steps)):  # fmt: skip
            batch = getattr(self, name).batch
            if count and batch % (self.workers.count * self.compute.accumulate):
                raise UserError(
                    f"{name}.batch={batch} cannot be cut into workers.count={self.workers.count} times "
                    f"compute.accumulate={self.compute.accumulate} equal parts"
                )
        told = {name: {**getattr(self, name).model_dump(), "steps": count} for name, count in steps.items()}
        return TrainGanConfig(**{**self.model_dump(), **told})

    def sizes(self, text_dim: int) -> GanConfig:
        """For `actors.networks`."""
        from actors.networks import GanConfig

        return GanConfig(text_dim=text_dim, **self.networks.model_dump())

    def schedule(self) -> GanSchedule:
        """For `actors.gan_trainer`; of a settled config."""
        from actors.gan_schedule import PHASES, GanSchedule, PhaseSettings

        game = self.adversarial
        phases = {}
        for name in PHASES:
            section = getattr(self, name)
            phases[name] = PhaseSettings(section.steps or 0, section.batch, section.rate)
        return GanSchedule(
            phases, self.regression.noises, game.critic_rate, game.gamma, game.gamma_last, game.lazy, game.match,
            game.weight, game.reconstruction, game.similarity, game.free, game.ramp, game.ema,
            self.compute.accumulate, self.compute.precision == "bfloat16", self.compute.compile,
            phases["autoencoder"].steps > 0, game.warm_critic,
        )  # fmt: skip
