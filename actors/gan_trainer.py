"""Trains the text-conditional GAN; up to three phases, each left out where its steps are 0.

1. *autoencoder*: an encoder and G's upper half learn to reproduce the pictures.
2. *regression*: words + noise -> the latent of a picture; of k noises the nearest is taught, so that words that fit
   many pictures spread over them by z instead of meeting in their mean (IMLE, Li & Malik, 2018). The text tower learns
   too.
3. *adversarial*: G and D play R3GAN's game (`actors.objective`).

Phases 1 and 2 are a warm start for small machines and small sets; on GPUs the third alone is R3GAN's recipe. The first
numbers of z are the changes made to the training picture (`actors.augment`): z moves, scales and tints what is drawn.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import CLIPTextModel

from actors.augment import DRAWS, Augmentation, augment, draw
from actors.damage import damage
from actors.distributed import gather, mean_of_workers, rank, unsynced, wrapped
from actors.gan_model import GanModel
from actors.gan_phases import Judge, Play, Regress, Reproduce, Weights, nearest_noise, wrong_words
from actors.gan_schedule import GanSchedule
from actors.image_text import ImageText, pictures_of, pooled_words, resample, words_of
from actors.networks import Discriminator, Encoder, GanConfig, GanGenerator
from actors.training_batch import TrainingBatch, positives, unit_images
from actors.training_loop import PhasePlan

_QUIET = 5
"""Logged values in a row that must look collapsed before training stops."""


class GanTrainer:
    """See `actors.training_loop.Trainee`.

    Args:
        encoder: the image-text encoder, on its device; it stays as it is. G's text tower starts as a copy of its own.
        networks: sizes; ``text_dim`` is the width of the encoder's text tower.
        schedule: how long and how hard.
        strength: changes of the pictures.
        seed: of the run; the networks' weights come from torch's global generator.
        device: where the networks go.
    """

    def __init__(
        self,
        encoder: ImageText,
        networks: GanConfig,
        schedule: GanSchedule,
        strength: Augmentation,
        seed: int,
        device: torch.device,
    ) -> None:
        self.encoder, self._schedule, self._strength, self._seed = encoder, schedule, strength, seed
        self._device, self._phase, self._quiet = device, "", 0
        encoder.model.requires_grad_(False).eval()
        self._pad: int = encoder.tokenizer.pad_token_id
        self.phases: Sequence[PhasePlan] = schedule.plans()
        self.coder = Encoder(networks, networks.latent_channels)
        self.generator, self.critic = GanGenerator(networks), Discriminator(networks)
        self.text = CLIPTextModel(encoder.model.config.text_config)
        self.text.load_state_dict(encoder.model.text_model.state_dict())
        self.average = copy.deepcopy(self.generator)
        for module in (self.coder, self.generator, self.critic, self.average):
            module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.text.to(device)
        if schedule.compile:
            # Not D: compiled functions cannot be differentiated twice, as the penalties ask.
            self.coder.compile()
            self.generator.stem.compile()
            self.generator.decoder.compile()

    def model(self) -> GanModel:
        """What has been trained so far, as one renders with it: the moving average where there is one."""
        generator = self.average if self._phase == "adversarial" else self.generator
        return GanModel(generator, self.text, self.encoder.tokenizer)

    def modules(self) -> Mapping[str, nn.Module]:
        """Two generators (the second is the moving average), D, the autoencoder's encoder, and G's text tower."""
        return {
            "generator": self.generator, "average": self.average, "critic": self.critic, "coder": self.coder,
            "text": self.text,
        }  # fmt: skip

    def begin(self, phase: str) -> Mapping[str, Optimizer]:
        """See the protocol; only what a phase trains gets gradients."""
        self._phase, schedule = phase, self._schedule
        for module in self.modules().values():
            module.requires_grad_(False)
        rate = schedule.phase(phase).rate
        if phase == "autoencoder":
            self.coder.requires_grad_(True)
            self.generator.decoder.requires_grad_(True)
            self._reproduce = wrapped(Reproduce(self.coder, self.generator.decoder))
            adam = AdamW(_trained(self._reproduce), rate, (0.9, 0.99), weight_decay=1e-4)
            self._optimisers: Mapping[str, Optimizer] = {"autoencoder": adam}
            return self._optimisers
        if phase == "regression":
            self.generator.stem.requires_grad_(True)
            self.text.requires_grad_(True)
            self._regress = wrapped(Regress(self.generator, self.text, self._pad))
            # Epsilon as for the encoder: see `actors.encoder_trainer`.
            adam = AdamW(_trained(self._regress), rate, (0.9, 0.98), eps=1e-6, weight_decay=0.01)
            self._optimisers = {"stem": adam}
            return self._optimisers
        weights = Weights(schedule.adversarial, schedule.reconstruction, schedule.similarity)
        self.generator.requires_grad_(True)
        self.critic.requires_grad_(True)
        self._play = wrapped(
            Play(self.generator, self.critic, weights, self._seen if schedule.similarity > 0 else None)
        )
        self._judge = wrapped(Judge(self.critic, schedule.match))
        self._optimisers = {
            "generator": AdamW(_trained(self._play), rate, (0.0, 0.99), weight_decay=0.0),
            "critic": AdamW(_trained(self._judge), schedule.critic_rate, (0.0, 0.99), weight_decay=0.0),
        }
        return self._optimisers

    def step(self, phase: str, number: int, batch: TrainingBatch) -> Mapping[str, Tensor]:
        """One step of a phase."""
        draws = draw(self._seed, batch.sample).to(self._device)
        real = augment(unit_images(batch.image), draws, self._strength)
        if phase == "autoencoder":
            return self._step_autoencoder(number, batch, real)
        if phase == "regression":
            noises = self._noises(batch, draws, self._schedule.noises)
            calls = self._split((batch.tokens, *noises, self._wanted(real)))
            packed = [(tokens, torch.stack(some), wanted) for tokens, *some, wanted in calls]
            loss, told, _ = self._descend(self._regress, "stem", packed, 1.0)
            return {"loss": loss, **told}
        return self._step_adversarial(number, batch, real, draws)

    def collapsed(self, phase: str, values: Mapping[str, float]) -> str | None:
        """A D without any doubt teaches G nothing; a G that draws one picture has learned nothing."""
        if phase != "adversarial" or "loss_d" not in values:
            return None
        certain = values["accuracy"] == 1 and values["logit_real"] - values["logit_fake"] > 20
        self._quiet = self._quiet + 1 if certain or values["spread"] < 1e-3 else 0
        if self._quiet < _QUIET:
            return None
        if certain:
            return "the discriminator tells every fake from its real picture beyond doubt; raise adversarial.gamma"
        return "the generator draws the same picture for all words; lower the rates or raise adversarial.gamma"

    def _step_autoencoder(self, number: int, batch: TrainingBatch, real: Tensor) -> Mapping[str, Tensor]:
        config = self.generator.config
        normals = draw(self._seed + 2, batch.sample, config.latent_channels * 64)
        normals = normals.view(-1, config.latent_channels, 8, 8).to(self._device)
        loss, told, _ = self._descend(self._reproduce, "autoencoder", self._split((real, normals)), 1.0)
        mean, square = mean_of_workers(told.pop("mean")), mean_of_workers(told.pop("square"))
        keep = min(0.99, number / (number + 1))
        shape, spread = (1, -1, 1, 1), (square - mean.square()).clamp(min=1e-8).sqrt()
        self.generator.shift.lerp_(mean.view(shape), 1 - keep)
        self.generator.scale.lerp_(spread.view(shape), 1 - keep)
        return {"loss": loss, **told}

    def _step_adversarial(self, number: int, batch: TrainingBatch, real: Tensor, draws: Tensor) -> Mapping[str, Tensor]:
        schedule = self._schedule
        if number == 0:
            self.average.load_state_dict(self.generator.state_dict())
            if schedule.coder and schedule.warm_critic:
                self.critic.backbone.begin_as(self.coder)
        mask = (batch.tokens != self._pad).long()
        with torch.no_grad():
            words = pooled_words(self.text, batch.tokens, mask)
            meaning = words_of(self.encoder.model, batch.tokens, mask) if schedule.similarity > 0 else None
            true = positives(gather(batch.caption), batch.own)
            others, distinct = wrong_words(gather(words), true, rank() * len(words))
        noise = self._noises(batch, draws, schedule.noises if schedule.warm else 1)
        free = torch.special.ndtr(draw(self._seed + 5, batch.sample, 1)).to(self._device) < schedule.free
        aimed = (~free).float().squeeze(1) / (1 - schedule.free)
        chosen = noise[0]
        if schedule.warm:
            near = nearest_noise(lambda z: self.generator.latent(z, words), noise, self._wanted(real))
            chosen = torch.where(free, chosen, near)
        task = self.generator.config.task
        given = None if task == "words" else damage(task, real, self._seed + 4, batch.sample)
        self.critic.requires_grad_(False)
        calls = [(*call, schedule.game(number)) for call in self._split((real, chosen, aimed, words, meaning, given))]
        loss_g, told, fakes = self._descend(self._play, "generator", calls)
        self.critic.requires_grad_(True)
        self._follow(number)
        values = {"loss": loss_g, **told}
        if schedule.adversarial > 0:
            # Lazy regularisation: the double backward of the penalties every few steps, as much stronger.
            gamma = schedule.penalty(number) * schedule.lazy if (number + 1) % schedule.lazy == 0 else 0.0
            calls = [(*call, gamma) for call in self._split((real, torch.cat(fakes), words, others, distinct))]
            _, judged, _ = self._descend(self._judge, "critic", calls)
            values |= {**judged, "grad_norm_g": values.pop("grad_norm"), "grad_norm_d": judged["grad_norm"]}
            values.pop("grad_norm")
        values["ema_distance"] = self._distance()
        return values

    def _descend(
        self, objective: nn.Module, name: str, calls: list[tuple[Any, ...]], clip: float = math.inf
    ) -> tuple[Tensor, dict[str, Tensor], list[Any]]:
        """One step of an optimiser over micro-batches; returns loss, values, and what else the objective gave."""
        optimiser = self._optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        total, extra = torch.zeros((), device=self._device), []
        told: dict[str, Tensor] = {}
        for place, call in enumerate(calls, 1):
            with torch.enable_grad():
                if place < len(calls):
                    with unsynced(objective):
                        loss, values, *rest = self._forward(objective, call, len(calls))
                else:
                    loss, values, *rest = self._forward(objective, call, len(calls))
            total += loss
            told = {key: value / len(calls) + told.get(key, 0.0) for key, value in values.items()}
            extra += rest
        parameters = [value for group in optimiser.param_groups for value in group["params"]]
        told["grad_norm"] = nn.utils.clip_grad_norm_(parameters, clip)
        optimiser.step()
        return total, told, extra

    def _forward(self, objective: nn.Module, call: tuple[Any, ...], parts: int) -> tuple[Any, ...]:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._schedule.mixed):
            loss, *rest = objective(*call)
        (loss / parts).backward()
        return loss.detach() / parts, *rest

    def _split(self, values: tuple[Tensor | None, ...]) -> list[tuple[Any, ...]]:
        parts = self._schedule.accumulate
        split = [[None] * parts if value is None else value.tensor_split(parts) for value in values]
        return list(zip(*split, strict=True))

    def _noises(self, batch: TrainingBatch, draws: Tensor, count: int) -> Tensor:
        """(k, n, noise_dim), by sample number; each begins with the draws that changed the picture."""
        width = self.generator.config.noise_dim
        normals = draw(self._seed + 3, batch.sample, count * width).view(-1, count, width)
        noise = normals.transpose(0, 1).to(self._device)
        shared = min(DRAWS, width)
        noise[:, :, :shared] = draws[:, :shared]
        return noise

    @torch.no_grad()
    def _wanted(self, real: Tensor) -> Tensor:
        wanted: Tensor = (self.coder(real) - self.generator.shift) / self.generator.scale
        return wanted

    def _seen(self, images: Tensor) -> Tensor:
        side = self.encoder.model.config.vision_config.image_size
        return pictures_of(self.encoder.model, resample(images, side))

    @torch.no_grad()
    def _follow(self, number: int) -> None:
        keep = min(self._schedule.ema, (number + 1) / (number + 10))
        for mean, value in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(value, 1 - keep)

    @torch.no_grad()
    def _distance(self) -> Tensor:
        """How far G is from its moving average, as a part of its own length."""
        pairs = list(zip(self.average.parameters(), self.generator.parameters(), strict=True))
        apart = torch.stack([(mean - value).square().sum() for mean, value in pairs]).sum()
        whole = torch.stack([value.square().sum() for _, value in pairs]).sum()
        distance: Tensor = torch.sqrt(apart / whole)
        return distance


def _trained(objective: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in objective.parameters() if parameter.requires_grad]
