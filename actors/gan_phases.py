"""The losses of the GAN's three phases as modules: a forward pass is a loss, which is what DDP wants to wrap.

Each returns the loss and, detached, what is worth logging. The equations are those of `actors.objective`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel

from actors.image_text import pooled_words
from actors.networks import Decoder, Discriminator, Encoder, GanGenerator
from actors.objective import critic_terms, generator_loss, reconstruction_loss, similarity_loss

Outcome = tuple[Tensor, dict[str, Tensor]]


class Reproduce(nn.Module):
    """Autoencoder: an encoder and G's upper half learn to reproduce pictures."""

    def __init__(self, coder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.coder, self.decoder = coder, decoder

    def forward(self, real: Tensor, noise: Tensor) -> Outcome:
        """Pictures (n, 3, r, r), standard normals (n, channels, 8, 8)."""
        latent = self.coder(real)
        # A little noise keeps neighbouring latents decodable: the lower half will never hit one exactly.
        painted = self.decoder(latent + 0.05 * noise)
        loss = reconstruction_loss(painted, real).mean() + (painted - real).square().mean()
        loss = loss + 1e-3 * (latent.square().mean() - 1).clamp(min=0)
        flat = latent.detach().transpose(0, 1).flatten(1)
        told = {"l1": (painted - real).abs().mean(), "mean": flat.mean(dim=1), "square": flat.square().mean(dim=1)}
        return loss, {name: value.detach() for name, value in told.items()}


class Regress(nn.Module):
    """Latent regression: words and noise -> the latent of their picture; of k noises the nearest is taught (IMLE).

    The loss is a picture's distance, not its square: what a word of many pictures cannot hit then pulls no harder than
    what a name can, and lands on most of them instead of between all (the geometric median in place of the mean).
    """

    def __init__(self, generator: GanGenerator, text: CLIPTextModel, pad: int) -> None:
        super().__init__()
        self.stem, self.text, self._pad = generator.stem, text, pad

    def forward(self, tokens: Tensor, noises: Tensor, wanted: Tensor) -> Outcome:
        """Tokens (n, t), noises (k, n, noise_dim), standardised latents (n, channels, 8, 8)."""
        words = pooled_words(self.text, tokens, (tokens != self._pad).long())
        noise = nearest_noise(lambda z: self.stem(words.detach(), z), noises, wanted)
        error = (self.stem(words, noise) - wanted).square().flatten(1).mean(dim=1)
        return (error + 1e-6).sqrt().mean(), {"squared": error.mean().detach()}


@dataclass(frozen=True)
class Weights:
    """Of the terms in G's loss."""

    adversarial: float
    reconstruction: float
    similarity: float


class Play(nn.Module):
    """G's side of the game. D is no part of this module: its gradients are not wanted here."""

    def __init__(
        self,
        generator: GanGenerator,
        critic: Discriminator,
        weights: Weights,
        embed: Callable[[Tensor], Tensor] | None,
    ) -> None:
        super().__init__()
        self.generator = generator
        self._critic = (critic,)  # a tuple hides it from DDP
        self._weights, self._embed = weights, embed

    def forward(
        self,
        real: Tensor,
        noise: Tensor,
        aimed: Tensor,
        words: Tensor,
        meaning: Tensor | None,
        given: Tensor | None,
        game: float,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Returns loss, values, and the fakes (n, 3, r, r), detached, for D to look at.

        ``aimed`` (n,) is how much the distance to its picture counts for each row; ``meaning`` are the words in the
        frozen encoder's space, (n, d), where similarity counts; ``game`` multiplies the weight of the adversarial term.
        """
        fake = self.generator(noise, words, given)
        told: dict[str, Tensor] = {"spread": fake.detach().std(dim=0).mean()}
        loss = fake.new_zeros(())
        if self._weights.adversarial > 0:
            told["loss_g"] = generator_loss(self._critic[0], real, fake, words)
            loss = loss + game * self._weights.adversarial * told["loss_g"]
        if self._weights.reconstruction > 0:
            told["rebuilt"] = (reconstruction_loss(fake, real) * aimed).mean()
            loss = loss + self._weights.reconstruction * told["rebuilt"]
        if self._embed is not None and meaning is not None:
            told["similarity"] = 1 - similarity_loss(self._embed(fake), meaning)
            loss = loss + self._weights.similarity * (1 - told["similarity"])
        return loss, {name: value.detach() for name, value in told.items()}, fake.detach()


class Judge(nn.Module):
    """D's side of the game."""

    def __init__(self, critic: Discriminator, match: float) -> None:
        super().__init__()
        self.critic, self._match = critic, match

    def forward(
        self, real: Tensor, fake: Tensor, words: Tensor, others: Tensor, distinct: Tensor, gamma: float
    ) -> Outcome:
        """``others`` are wrong words for the real pictures, ``distinct`` says where there were any."""
        terms = critic_terms(self.critic, real, fake, words, others, penalties=gamma > 0)
        told = {
            "accuracy": (terms.real > terms.fake).float().mean(),
            "accuracy_match": (terms.real > terms.mismatch).float().mean(),
            "logit_real": terms.real.mean(),
            "logit_fake": terms.fake.mean(),
            "r1": terms.r1.mean(),
            "r2": terms.r2.mean(),
        }
        loss = terms.loss(gamma, self._match, distinct)
        return loss, {"loss_d": loss.detach(), **{name: value.detach() for name, value in told.items()}}


@torch.no_grad()
def nearest_noise(latent: Callable[[Tensor], Tensor], noises: Tensor, wanted: Tensor) -> Tensor:
    """Of k noises (k, n, d) for each row the one whose latent is nearest to the wanted one; (n, d)."""
    errors = [(latent(noise) - wanted).square().flatten(1).mean(dim=1) for noise in noises]
    best = torch.stack(errors).argmin(dim=0)
    return noises[best, torch.arange(noises.shape[1], device=noises.device)]


def wrong_words(words: Tensor, positive: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """For each of this worker's pictures words of the global batch that are not true of it: the next such, in a ring.

    Args:
        words: (m, d), of all workers.
        positive: (n, m) bool: which of them are true of which picture.
        first: place of this worker's first picture in the global batch.

    Returns:
        Words (n, d), and (n,) 1 or 0: whether there were any.
    """
    count, total = positive.shape
    places = torch.arange(first, first + count, device=words.device)[:, None]
    ring = (places + torch.arange(1, total + 1, device=words.device)) % total
    wrong = ~positive.gather(1, ring)
    chosen = ring.gather(1, wrong.float().argmax(dim=1, keepdim=True)).squeeze(1)
    return words[chosen], wrong.any(dim=1).float()
