"""Trains the text-conditional GAN in three phases on one machine; Ray Train takes over this loop's steps later.

1. *autoencoder*: an encoder and G's decoder learn to reproduce the pictures; the latents are then standardised.
2. *regression*: text encoder and G's stem learn words + noise -> latent; of k noises the best one is taught, so that
   words that fit many pictures spread over them by z instead of meeting in their mean (IMLE, Li & Malik, 2018).
3. *adversarial*: G and D play R3GAN's game (`actors.objective`) with the reconstruction beside it.

Each step's random numbers come from (seed, phase, step), so a resumed run is the undisturbed one, bit for bit.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from actors.checkpoints import load_checkpoint, save_checkpoint
from actors.errors import JobError
from actors.gan_model import MAX_TOKENS, GanModel
from actors.networks import Discriminator, Encoder, GanConfig, GanGenerator
from actors.objective import critic_loss, generator_loss, reconstruction_loss
from actors.seeds import derive_seed

PHASES = ("autoencoder", "regression", "adversarial")


@dataclass(frozen=True)
class TrainSettings:
    """How long and how hard. Rates are peaks of a cosine schedule with a short warm-up."""

    steps: tuple[int, int, int] = (1700, 1600, 400)
    batch: tuple[int, int, int] = (32, 256, 32)
    rate: tuple[float, float, float] = (2e-3, 1e-3, 2e-4)
    noises: int = 4
    gamma: float = 2.0
    lazy: int = 4
    match: float = 0.5
    adversarial: float = 0.05
    ema: float = 0.995
    seed: int = 0
    checkpoint_every: int = 200


class Pictures(Protocol):
    """The training set as the trainer sees it."""

    def __len__(self) -> int:
        """Number of pictures."""
        ...

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Indices of ``count`` pictures, drawn with the set's own weights; int64."""
        ...

    def images(self, indices: Tensor) -> Tensor:
        """Pictures (n, 3, r, r), float32 in [-1, 1]."""
        ...

    def caption(self, index: int, rng: random.Random) -> str:
        """One of the wordings of a picture."""
        ...


class GanTrainer:
    """All state of a training run.

    Args:
        pictures: the training set.
        tokenizer: trained on its captions.
        networks: sizes.
        settings: schedule.
        directory: where checkpoints go; a run that finds some goes on from the last.
        log: takes (phase, step, values) every few steps.
        start: a trained model to go on from, of the same sizes; its decoder stays as it is in the first phase, which
            then only learns the encoder that inverts it.
    """

    def __init__(
        self,
        pictures: Pictures,
        tokenizer: PreTrainedTokenizerFast,
        networks: GanConfig,
        settings: TrainSettings,
        directory: Path,
        log: Callable[[str, int, dict[str, float]], None],
        start: GanModel | None = None,
    ) -> None:
        torch.manual_seed(derive_seed(settings.seed, "weights") % 2**63)
        self._pictures, self._tokenizer, self._settings = pictures, tokenizer, settings
        self._directory, self._log, self._config = directory, log, networks
        self.encoder = Encoder(networks, networks.latent_channels)
        self.generator = GanGenerator(networks)
        self.critic = Discriminator(networks)
        self.text = CLIPTextModel(text_config(tokenizer, networks.text_dim))
        self._continues = start is not None
        if start is not None:
            self.generator.load_state_dict(start.generator.state_dict())
            self.text.load_state_dict(start.text_encoder.state_dict())
        for module in (self.encoder, self.generator, self.critic):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.generator)
        self._latents = torch.empty(0)

    def run(self) -> GanModel:
        """Trains all phases, or what a checkpoint leaves of them, and returns the model with the averaged generator.

        Raises:
            JobError: the loss is not finite; the last checkpoint is still good.
        """
        settings = self._settings
        self.text.train()
        for number, (phase, step) in enumerate(zip(PHASES, (self._paint, self._regress, self._play), strict=True)):
            optimisers = self._optimisers(phase, settings.rate[number])
            modules = {**self._modules(), "average": self.average}
            begun = load_checkpoint(self._directory, phase, modules, optimisers)
            if phase != "autoencoder":
                self._standardise(fit=phase == "regression" and begun == 0 and not self._continues)
            if phase == "adversarial" and begun == 0:
                self.average.load_state_dict(self.generator.state_dict())
            self.generator.decoder.requires_grad_(not (self._continues and phase == "autoencoder"))
            total = settings.steps[number]
            for index in range(begun, total):
                scale = min(1.0, (index + 1) / 100) * 0.5 * (1 + math.cos(math.pi * index / total)) + 0.01
                for optimiser in optimisers:
                    for group in optimiser.param_groups:
                        group["lr"] = group["initial_lr"] * scale
                seed = derive_seed(settings.seed, phase, index)
                torch.manual_seed(seed)
                values = step(optimisers, index, torch.Generator().manual_seed(seed), random.Random(seed))
                if not all(math.isfinite(value) for value in values.values()):
                    raise JobError(f"training diverged in phase {phase} at step {index}; the last checkpoint is good")
                if index % 50 == 0 or index == total - 1:
                    self._log(phase, index, values)
                if (index + 1) % settings.checkpoint_every == 0 or index == total - 1:
                    save_checkpoint(self._directory, phase, index + 1, modules, optimisers)
        return GanModel(self.average.eval(), self.text.eval(), self._tokenizer)

    def _paint(
        self, optimisers: Sequence[torch.optim.Optimizer], index: int, draw: torch.Generator, rng: random.Random
    ) -> dict[str, float]:
        real = self._images(self._pictures.sample(self._settings.batch[0], draw))
        latent = self.encoder(real)
        # A little noise keeps neighbouring latents decodable: the stem will never hit one exactly.
        painted = self.generator.decoder(latent + 0.05 * torch.randn_like(latent))
        loss = reconstruction_loss(painted, real).mean() + (painted - real).square().mean()
        loss = loss + 1e-3 * (latent.square().mean() - 1).clamp(min=0)
        trained = [
            module for module in (self.encoder, self.generator.decoder) if next(module.parameters()).requires_grad
        ]
        self._descend(optimisers[0], loss, trained)
        return {"loss": loss.item(), "l1": (painted - real).abs().mean().item()}

    def _regress(
        self, optimisers: Sequence[torch.optim.Optimizer], index: int, draw: torch.Generator, rng: random.Random
    ) -> dict[str, float]:
        picked = self._pictures.sample(self._settings.batch[1], draw)
        words = self._words(picked, rng)
        wanted = self._latents[picked]
        noise = self._best_noise(words, wanted)
        loss = (self.generator.latent(noise, words) - wanted).square().mean()
        self._descend(optimisers[0], loss, [self.text, self.generator.stem])
        return {"loss": loss.item()}

    def _play(
        self, optimisers: Sequence[torch.optim.Optimizer], index: int, draw: torch.Generator, rng: random.Random
    ) -> dict[str, float]:
        settings = self._settings
        picked = self._pictures.sample(settings.batch[2], draw)
        real = self._images(picked)
        with torch.no_grad():
            words = self._words(picked, rng)
            noise = self._best_noise(words, self._latents[picked])
        fake = self.generator(noise, words)
        # Lazy regularisation: the penalties' double backward every few steps, as much stronger.
        gamma = settings.gamma * settings.lazy if index % settings.lazy == 0 else 0.0
        loss_d = critic_loss(self.critic, real, fake, words, words.roll(1, dims=0), gamma=gamma, match=settings.match)
        self._descend(optimisers[1], loss_d, [self.critic])
        game = generator_loss(self.critic, real, fake, words)
        rebuilt = reconstruction_loss(fake, real).mean()
        self._descend(optimisers[0], settings.adversarial * game + rebuilt, [self.generator])
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                mean.lerp_(value, 1 - settings.ema)
        return {"loss_d": loss_d.item(), "loss_g": game.item(), "rebuilt": rebuilt.item()}

    def _best_noise(self, words: Tensor, wanted: Tensor) -> Tensor:
        """Of k noises for each row the one whose latent is nearest to the wanted one; (n, noise_dim)."""
        count = len(words)
        with torch.no_grad():
            noises = torch.randn(self._settings.noises, count, self._config.noise_dim)
            errors = [(self.generator.latent(n, words) - wanted).square().flatten(1).mean(dim=1) for n in noises]
            best = torch.stack(errors).argmin(dim=0)
            return noises[best, torch.arange(count)]

    def _words(self, picked: Tensor, rng: random.Random) -> Tensor:
        captions = [self._pictures.caption(index, rng) for index in picked.tolist()]
        encoded = self._tokenizer(captions, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        pooled: Tensor = self.text(**encoded).pooler_output
        return pooled

    def _images(self, picked: Tensor) -> Tensor:
        return self._pictures.images(picked).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def _standardise(self, *, fit: bool) -> None:
        """Encodes all pictures; ``fit`` also sets the scale by which G undoes the standardisation."""
        rows = torch.arange(len(self._pictures)).split(128)
        latents = torch.cat([self.encoder(self._images(part)) for part in rows])
        if fit:
            self.generator.shift.copy_(latents.mean(dim=(0, 2, 3), keepdim=True))
            self.generator.scale.copy_(latents.std(dim=(0, 2, 3), keepdim=True))
        self._latents = (latents - self.generator.shift) / self.generator.scale

    def _modules(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "generator": self.generator, "critic": self.critic, "text": self.text}

    def _optimisers(self, phase: str, rate: float) -> list[torch.optim.Optimizer]:
        def adam(
            modules: Sequence[nn.Module], rate: float, betas: tuple[float, float], decay: float
        ) -> torch.optim.AdamW:
            parameters = [p for module in modules for p in module.parameters()]
            optimiser = torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=decay)
            for group in optimiser.param_groups:
                group["initial_lr"] = rate
            return optimiser

        if phase == "autoencoder":
            decoder = [] if self._continues else [self.generator.decoder]
            return [adam([self.encoder, *decoder], rate, (0.9, 0.99), 1e-4)]
        if phase == "regression":
            return [adam([self.text, self.generator.stem], rate, (0.9, 0.98), 0.01)]
        return [adam([self.generator], rate, (0.0, 0.99), 0.0), adam([self.critic], 2 * rate, (0.0, 0.99), 0.0)]

    def _descend(self, optimiser: torch.optim.Optimizer, loss: Tensor, modules: Sequence[nn.Module]) -> None:
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for m in modules for p in m.parameters()], 1.0)
        optimiser.step()


def text_config(tokenizer: PreTrainedTokenizerFast, width: int) -> CLIPTextConfig:
    """The text encoder's configuration: three layers, heads of 48, the tokenizer's special tokens."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=3,
        num_attention_heads=max(1, width // 48),
        max_position_embeddings=MAX_TOKENS,
        projection_dim=width,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
