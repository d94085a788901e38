"""Trains the image-text encoder: pictures against words, positives shared, negatives from all workers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import CLIPModel

from actors.augment import Augmentation, augment, draw
from actors.contrastive import contrastive_loss
from actors.distributed import gather, workers, wrapped
from actors.image_text import ImageText, pictures_of, words_of
from actors.training_batch import TrainingBatch, positives, unit_images
from actors.training_loop import PhasePlan

_MAX_SCALE = 100.0


@dataclass(frozen=True)
class EncoderSchedule:
    """How long and how hard."""

    steps: int = 1500
    batch: int = 256
    rate: float = 1e-3
    decay: float = 0.05
    word_dropout: float = 0.1


class EncoderObjective(nn.Module):
    """The loss of a whole batch as one forward pass, which is what DDP wants to wrap."""

    def __init__(self, model: CLIPModel, pad: int, word_dropout: float) -> None:
        super().__init__()
        self.model, self._pad, self._word_dropout = model, pad, word_dropout

    def forward(self, images: Tensor, tokens: Tensor, caption: Tensor, own: Tensor, keep: Tensor) -> Tensor:
        """Images (n, 3, r, r); tokens (n, t); hashes (n,) and (n, k); keep (n, t) in 0..1 -> (2,): loss, accuracy."""
        mask = (tokens != self._pad).long()
        # Words left out at random: a caption is more than one word that gives it away. Ends are kept: they are pooled.
        dropped = keep < self._word_dropout
        dropped[:, 0] = False
        last = mask.sum(dim=1) - 1
        dropped[torch.arange(len(tokens)), last] = False
        pictures = gather(pictures_of(self.model, images))
        words = gather(words_of(self.model, tokens, mask * (~dropped).long()))
        positive = positives(gather(caption), gather(own))
        scale = self.model.logit_scale.exp().clamp(max=_MAX_SCALE)
        loss = contrastive_loss(pictures, words, positive, scale)
        with torch.no_grad():
            best = (pictures @ words.T).argmax(dim=1)
            hit = positive[torch.arange(len(best)), best].float().mean()
        return torch.stack([loss, hit])


class EncoderTrainer:
    """See `actors.training_loop.Trainee`.

    Args:
        encoder: what is trained, on its device.
        schedule: how long and how hard.
        strength: changes of the pictures.
        seed: of the run.
    """

    def __init__(self, encoder: ImageText, schedule: EncoderSchedule, strength: Augmentation, seed: int) -> None:
        self.encoder, self._schedule, self._strength, self._seed = encoder, schedule, strength, seed
        self.phases: Sequence[PhasePlan] = (PhasePlan("contrast", schedule.steps, schedule.batch),)
        pad = encoder.tokenizer.pad_token_id
        objective = EncoderObjective(encoder.model, pad, schedule.word_dropout)
        self._objective = wrapped(objective)

    def modules(self) -> Mapping[str, nn.Module]:
        """The encoder alone."""
        return {"encoder": self.encoder.model}

    def begin(self, phase: str) -> Mapping[str, torch.optim.Optimizer]:
        """AdamW; gains, biases and the temperature do not decay.

        Epsilon is CLIP's for transformers: the gradient of a key's bias is zero but for rounding, and a smaller epsilon
        would blow that rounding up to whole steps.
        """
        self.encoder.model.train()
        parameters = list(self.encoder.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": self._schedule.decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=self._schedule.rate, betas=(0.9, 0.98), eps=1e-6)
        return {"encoder": self._optimiser}

    def step(self, phase: str, number: int, batch: TrainingBatch) -> Mapping[str, Tensor]:
        """One step over the batches of all workers."""
        draws = draw(self._seed, batch.sample).to(batch.image.device)
        images = augment(unit_images(batch.image), draws, self._strength)
        keep = _uniform(self._seed, batch)
        outcome = self._objective(images, batch.tokens, batch.caption, batch.own, keep)
        self._optimiser.zero_grad(set_to_none=True)
        (outcome[0] * workers()).backward()
        norm = nn.utils.clip_grad_norm_(self.encoder.model.parameters(), 1.0)
        self._optimiser.step()
        found = outcome.detach()
        return {
            "loss": found[0],
            "accuracy": found[1],
            "grad_norm": norm,
            "scale": self.encoder.model.logit_scale.detach().exp().clamp(max=_MAX_SCALE),
            "chance": torch.tensor(math.log(len(batch.sample) * workers())),
        }

    def collapsed(self, phase: str, values: Mapping[str, float]) -> str | None:
        """Nothing here can collapse but to chance, which is seen in the log."""
        return None


def _uniform(seed: int, batch: TrainingBatch) -> Tensor:
    """(n, t) in 0..1, by sample number: the same for any number of workers."""
    normals = draw(seed + 1, batch.sample, batch.tokens.shape[1]).to(batch.tokens.device)
    return 0.5 * (1 + torch.erf(normals / math.sqrt(2)))
