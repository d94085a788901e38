"""The objective learns: 25 narrow Gaussians on a grid, each with its own condition, and none without the penalties.

The grid is that of VEEGAN (Srivastava et al., 2017) and PacGAN (Lin et al., 2018): means on {-4, -2, 0, 2, 4} squared,
standard deviation 0.05, a sample is good within 3 of them. Here the mode is the condition, and a good sample lies at
the mode that was asked for. True samples score 98.9 %.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from actors.objective import critic_loss, generator_loss

MEANS = torch.cartesian_prod(*[torch.arange(-4.0, 5.0, 2.0)] * 2)
MODES, SIGMA = len(MEANS), 0.05
NOISE, WIDTH, FREQUENCIES, SCALE = 4, 128, 64, 2.0
STEPS, BATCH, RATE, EMA = 1500, 128, 4e-3, 0.999
MATCH = 0.1
GAMMA, LAST_GAMMA = 2.0, 0.05
"""Decays as R3GAN's does: strong while G is far from the data, so that no mode is caught on the way, then weak."""


class PointGenerator(nn.Module):
    """x = G(z, c): the condition joins the noise, as in `actors.networks.Stem`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(NOISE + MODES, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 2)
        )

    def forward(self, noise: Tensor, mode: Tensor) -> Tensor:
        return self.layers(torch.cat([noise, mode], dim=1))


class PointCritic(nn.Module):
    """D(x, c) with projection, as in `actors.networks.Discriminator`; a bank of waves resolves 0.05 in a range of 8.

    That makes it a strong critic. Without the penalties its slopes grow until they tell G nothing of where to go.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("waves", SCALE * torch.randn(2, FREQUENCIES))
        self.features = nn.Sequential(
            nn.Linear(2 + 2 * FREQUENCIES, WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2)
        )
        self.realness = nn.Linear(WIDTH, 1)
        self.modes = nn.Linear(MODES, WIDTH)
        nn.init.normal_(self.modes.weight)

    waves: Tensor

    def forward(self, point: Tensor, mode: Tensor) -> Tensor:
        phase = point @ self.waves
        hidden = self.features(torch.cat([point, phase.sin(), phase.cos()], dim=1))
        match = (self.modes(mode) * hidden).sum(dim=1) / math.sqrt(WIDTH)
        return self.realness(hidden).squeeze(1) + match


@dataclass(frozen=True)
class Score:
    """What 400 samples of each mode show."""

    covered: int
    """Modes of which more than half of the samples are good."""
    good: float
    """Share of samples within 3 sigma of the mode asked for."""
    narrowest: float
    """Smallest spread of any mode along an axis, in sigmas: a mode drawn as one point has 0."""


def score(samples: Tensor, mode: Tensor) -> Score:
    off = (samples - MEANS[mode]) / SIGMA
    by_mode = torch.stack([off[mode == m] for m in range(MODES)])
    good = (by_mode.norm(dim=2) < 3).float()
    covered = int((good.mean(dim=1) > 0.5).sum())
    return Score(covered, good.mean().item(), by_mode.std(dim=1).min().item())


def real_points(count: int) -> tuple[Tensor, Tensor]:
    mode = torch.randint(MODES, (count,))
    return mode, MEANS[mode] + SIGMA * torch.randn(count, 2)


def falling(step: int, first: float, last: float) -> float:
    """Half a cosine from ``first`` to ``last``."""
    return last + (first - last) * (1 + math.cos(math.pi * step / STEPS)) / 2


def train(seed: int, gamma: float, last_gamma: float) -> Score:
    """Trains G against D and scores the running mean of G's weights."""
    torch.manual_seed(seed)
    one_hot = torch.eye(MODES)
    g, d = PointGenerator(), PointCritic()
    mean_g = copy.deepcopy(g)
    optimisers = [torch.optim.Adam(net.parameters(), RATE, betas=(0.0, 0.99), fused=True) for net in (g, d)]
    decays = [LambdaLR(o, lambda t: falling(t, 1.0, 0.02)) for o in optimisers]
    for step in range(STEPS):
        mode, x = real_points(BATCH)
        c, other_c = one_hot[mode], one_hot[(mode + torch.randint(1, MODES, (BATCH,))) % MODES]
        with torch.no_grad():
            made = g(torch.randn(BATCH, NOISE), c)
        d.zero_grad()
        weight = falling(step, gamma, last_gamma)
        critic_loss(d, x, made, c, other_c, gamma=weight, match=MATCH).backward()
        optimisers[1].step()

        mode, x = real_points(BATCH)
        g.zero_grad()
        generator_loss(d, x, g(torch.randn(BATCH, NOISE), one_hot[mode]), one_hot[mode]).backward()
        optimisers[0].step()

        for decay in decays:
            decay.step()
        with torch.no_grad():
            keep = min(EMA, (step + 1) / (step + 10))  # the first steps are forgotten sooner
            torch._foreach_lerp_(list(mean_g.parameters()), list(g.parameters()), 1 - keep)
    mode = torch.arange(MODES).repeat_interleave(400)
    with torch.no_grad():
        return score(mean_g(torch.randn(len(mode), NOISE), one_hot[mode]), mode)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small matrices gain nothing from more; and the random state of other tests stays as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(before)


def learned(result: Score) -> bool:
    return result.covered == MODES and result.good >= 0.95 and result.narrowest >= 0.4


def test_all_modes_are_learned_each_under_its_own_condition() -> None:
    result = train(seed=0, gamma=GAMMA, last_gamma=LAST_GAMMA)
    assert learned(result), result


def test_without_penalties_the_same_training_fails() -> None:
    result = train(seed=0, gamma=0.0, last_gamma=0.0)
    assert result.covered < MODES, result
    assert result.good < 0.5, result


def test_score_of_true_samples_and_of_three_ways_to_be_wrong() -> None:
    torch.manual_seed(0)
    mode = torch.arange(MODES).repeat_interleave(400)
    true = MEANS[mode] + SIGMA * torch.randn(len(mode), 2)
    assert learned(score(true, mode))
    assert score(true, mode).good == pytest.approx(0.989, abs=0.005)
    assert not learned(score(MEANS[mode], mode)), "each mode one point"
    assert not learned(score(true.roll(400, dims=0), mode)), "every mode drawn, under its neighbour's condition"
    dropped = true.clone()
    dropped[mode == 7] = true[mode == 8]
    assert score(dropped, mode).good > 0.94
    assert score(dropped, mode).covered == MODES - 1
    assert not learned(score(dropped, mode))
