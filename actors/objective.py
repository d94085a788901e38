"""The GAN's objective on one screen: R3GAN's losses, made text-conditional by matching-aware pairs.

R3GAN (Huang et al., NeurIPS 2024) in its notation, with c the words, c' the words of another picture, x real,
x^ = G(z, c), and f(t) = log(1 + exp(-t)):

    relativistic pairing   L_D = E f( D(x, c) - D(x^, c) )          L_G = E f( D(x^, c) - D(x, c) )        (eq. 2)
    zero-centred penalties R1 = E |grad_x D(x, c)|^2,  R2 = E |grad_x^ D(x^, c)|^2,   both times gamma / 2  (eq. 3, 4)
    matching-aware pairs   L_M = E f( D(x, c) - D(x, c') )      right picture, wrong words (after Reed et al., 2016)
    reconstruction         L_R = E min_k |G(z_k, c) - x|_1      the best of k noises, so that words with many pictures
                                                                are not averaged (IMLE, Li & Malik, 2018)
    similarity             L_S = E (1 - cos(e(x^), e(c)))       e: the frozen image-text encoder

D minimises L_D + gamma/2 (R1 + R2) + match * L_M.
G minimises adversarial * L_G + reconstruction * L_R + similarity * L_S.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Critic = Callable[[Tensor, Tensor], Tensor]
"""D: images (n, 3, h, w) and words (n, d) -> logits (n,)."""


def pairing_loss(better: Tensor, worse: Tensor) -> Tensor:
    """f(better - worse), one value a pair: small where the critic ranks ``better`` above ``worse``; shapes (n,)."""
    return F.softplus(worse - better)


def gradient_penalty(critic: Critic, images: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """The critic's logits and the squared gradient norm at each image; both of shape (n,), differentiable."""
    images = images.detach().requires_grad_(True)
    logits = critic(images, words)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return logits, gradient.square().flatten(1).sum(dim=1)


@dataclass(frozen=True)
class CriticTerms:
    """What D said of a batch; all of shape (n,). ``r1`` and ``r2`` are zero where penalties were left out."""

    real: Tensor
    fake: Tensor
    mismatch: Tensor
    r1: Tensor
    r2: Tensor

    def loss(self, gamma: float, match: float, distinct: Tensor | None = None) -> Tensor:
        """What D minimises; ``distinct`` (n,) is 0 where no wrong words were to be had for L_M."""
        mismatch = pairing_loss(self.real, self.mismatch)
        mismatch = mismatch if distinct is None else mismatch * distinct
        return (pairing_loss(self.real, self.fake) + gamma / 2 * (self.r1 + self.r2) + match * mismatch).mean()


def critic_terms(
    critic: Critic, real: Tensor, fake: Tensor, words: Tensor, other_words: Tensor, *, penalties: bool
) -> CriticTerms:
    """Shows D real, fake and mismatched pairs. Without ``penalties`` (lazy steps) R1 and R2 are not computed."""
    fake = fake.detach()
    if penalties:
        on_real, r1 = gradient_penalty(critic, real, words)
        on_fake, r2 = gradient_penalty(critic, fake, words)
    else:
        on_real, on_fake = critic(real, words), critic(fake, words)
        r1 = r2 = on_real.new_zeros(len(real))
    return CriticTerms(on_real, on_fake, critic(real, other_words), r1, r2)


def critic_loss(
    critic: Critic, real: Tensor, fake: Tensor, words: Tensor, other_words: Tensor, *, gamma: float, match: float
) -> Tensor:
    """What D minimises, averaged over the batch. ``gamma`` 0 leaves the penalties out (lazy steps)."""
    return critic_terms(critic, real, fake, words, other_words, penalties=gamma > 0).loss(gamma, match)


def generator_loss(critic: Critic, real: Tensor, fake: Tensor, words: Tensor) -> Tensor:
    """L_G, averaged over the batch; ``fake`` must not be clamped, or saturated pixels would get no gradient."""
    with torch.no_grad():
        on_real = critic(real, words)
    return pairing_loss(critic(fake, words), on_real).mean()


def reconstruction_loss(fake: Tensor, real: Tensor) -> Tensor:
    """Absolute error of pixels plus half that of their differences, which keeps edges; one value an image."""
    error = fake - real
    across = (error[..., 1:] - error[..., :-1]).abs().flatten(1).mean(dim=1)
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().flatten(1).mean(dim=1)
    return error.abs().flatten(1).mean(dim=1) + 0.5 * (across + down)


def similarity_loss(pictures: Tensor, words: Tensor) -> Tensor:
    """L_S, averaged over the batch, of embeddings (n, d) of length one."""
    return (1 - (pictures * words).sum(dim=1)).mean()
