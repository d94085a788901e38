"""The objective against values worked out by hand, on critics whose gradients are known."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actors.objective import critic_loss, generator_loss, gradient_penalty, pairing_loss, reconstruction_loss


def f(t: float) -> float:
    return math.log(1 + math.exp(-t))


class Linear(nn.Module):
    """D(x, c) = <w, x> + <v, c>: its gradient is w at every picture."""

    def __init__(self, w: Tensor, v: Tensor) -> None:
        super().__init__()
        self.w, self.v = nn.Parameter(w), nn.Parameter(v)

    def forward(self, image: Tensor, words: Tensor) -> Tensor:
        return (image * self.w).flatten(1).sum(dim=1) + words @ self.v


def linear(words: float = 0.0) -> Linear:
    w = torch.arange(12.0).reshape(3, 2, 2) / 10
    return Linear(w, torch.full((2,), words))


def images(value: float, count: int = 2) -> Tensor:
    return torch.full((count, 3, 2, 2), value)


W_SUM, W_SQUARE = 6.6, 5.06  # of the weights 0, 0.1 ... 1.1
NO_WORDS = torch.zeros(2, 2)


@pytest.mark.parametrize("t", [-3.0, 0.0, 0.5, 4.0])
def test_pairing_loss_is_the_softplus_of_the_ranking(t: float) -> None:
    loss = pairing_loss(torch.tensor([t + 1]), torch.tensor([1.0]))
    assert loss.item() == pytest.approx(f(t), rel=1e-5)


def test_pairing_loss_stays_finite_for_hopeless_pairs() -> None:
    assert pairing_loss(torch.tensor([-1e4]), torch.tensor([1e4])).item() == pytest.approx(2e4)


def test_gradient_penalty_of_a_linear_critic_is_its_squared_weight_everywhere() -> None:
    logits, penalty = gradient_penalty(linear(), torch.stack([images(0.3, 1)[0], images(-7.0, 1)[0]]), NO_WORDS)
    assert penalty.tolist() == pytest.approx([W_SQUARE, W_SQUARE])
    assert logits.tolist() == pytest.approx([0.3 * W_SUM, -7 * W_SUM], rel=1e-5)


def test_gradient_penalty_of_a_quadratic_critic_is_the_squared_picture() -> None:
    """D = |x|^2 / 2 has the gradient x; each picture's penalty is its own, not its batch's mean."""
    x = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    _, penalty = gradient_penalty(lambda image, words: image.square().flatten(1).sum(dim=1) / 2, x, NO_WORDS)
    torch.testing.assert_close(penalty, x.square().flatten(1).sum(dim=1))


def test_gradient_penalty_teaches_the_critic_and_leaves_the_picture_alone() -> None:
    critic, picture = linear(), images(1.0).requires_grad_(True)
    gradient_penalty(critic, picture, NO_WORDS)[1].mean().backward()
    torch.testing.assert_close(critic.w.grad, 2 * critic.w.detach())
    assert picture.grad is None


def test_critic_loss_is_the_sum_of_its_four_terms() -> None:
    critic, words, other = linear(words=0.5), torch.ones(2, 2), torch.full((2, 2), 0.4)
    loss = critic_loss(critic, images(0.2), images(0.1), words, other, gamma=3.0, match=0.7)
    pairing = f(0.1 * W_SUM)
    penalties = 3.0 / 2 * (W_SQUARE + W_SQUARE)
    mismatch = f(0.5 * 2 * (1 - 0.4))
    assert loss.item() == pytest.approx(pairing + penalties + 0.7 * mismatch, rel=1e-5)


def test_lazy_step_leaves_both_penalties_out_and_nothing_else() -> None:
    critic, words, other = linear(words=0.5), torch.ones(2, 2), torch.zeros(2, 2)
    with_, without = (
        critic_loss(critic, images(0.2), images(0.1), words, other, gamma=gamma, match=0.5).item()
        for gamma in (2.0, 0.0)
    )
    assert with_ - without == pytest.approx(2 * W_SQUARE, rel=1e-5)


@pytest.mark.parametrize("spared", ["real", "fake"])
def test_r1_is_taken_at_real_pictures_and_r2_at_made_ones(spared: str) -> None:
    """A critic that is flat on one of the two sides is penalised on the other alone."""

    def critic(image: Tensor, words: Tensor) -> Tensor:
        slope = 2.0 if (image.mean() > 0) == (spared == "fake") else 0.0
        return slope * image.flatten(1).sum(dim=1)

    def total(gamma: float) -> float:
        return critic_loss(critic, images(1.0), images(-1.0), NO_WORDS, NO_WORDS, gamma=gamma, match=0.0).item()

    assert total(2.0) - total(0.0) == pytest.approx(2.0 / 2 * 4 * 12, rel=1e-4)


def test_gradient_of_both_penalties_on_a_linear_critic() -> None:
    """d/dw gamma/2 (|w|^2 + |w|^2) = 2 gamma w; equal pictures and words make the other terms flat."""
    critic = linear()
    critic_loss(critic, images(0.3), images(0.3), NO_WORDS, NO_WORDS, gamma=1.5, match=1.0).backward()
    torch.testing.assert_close(critic.w.grad, 2 * 1.5 * critic.w.detach())


def test_critic_learns_to_rank_real_above_made_and_right_words_above_wrong() -> None:
    critic = linear(words=0.0)
    torch.nn.init.zeros_(critic.w)
    critic_loss(critic, images(1.0), images(-1.0), torch.ones(2, 2), -torch.ones(2, 2), gamma=0.0, match=1.0).backward()
    assert (critic.w.grad < 0).all(), "a descent step must raise D on real pictures"
    assert (critic.v.grad < 0).all(), "a descent step must raise D on right words"


def test_wrong_words_are_judged_with_the_real_picture() -> None:
    seen: list[tuple[float, float]] = []

    def critic(image: Tensor, words: Tensor) -> Tensor:
        seen.append((image.mean().item(), words.mean().item()))
        return image.flatten(1).sum(dim=1)

    critic_loss(critic, images(1.0), images(-1.0), torch.ones(2, 2), torch.full((2, 2), 5.0), gamma=0.0, match=1.0)
    assert sorted(seen) == [(-1.0, 1.0), (1.0, 1.0), (1.0, 5.0)]


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_critic_loss_sends_no_gradient_to_the_generator(gamma: float) -> None:
    fake = images(0.5).requires_grad_(True)
    critic_loss(linear(), images(0.1), fake, NO_WORDS, NO_WORDS, gamma=gamma, match=0.5).backward()
    assert fake.grad is None


def test_generator_loss_is_the_pairing_turned_round() -> None:
    loss = generator_loss(linear(), images(0.2), images(0.1), NO_WORDS)
    assert loss.item() == pytest.approx(f(-0.1 * W_SUM), rel=1e-5)


@pytest.mark.parametrize("level", [0.0, 3.0, -3.0])
def test_generator_gets_a_gradient_outside_the_range_of_pixels_too(level: float) -> None:
    fake = images(level).requires_grad_(True)
    generator_loss(linear(), images(level), fake, NO_WORDS).backward()
    assert fake.grad is not None
    torch.testing.assert_close(fake.grad, -0.5 / 2 * linear().w.detach().expand(2, 3, 2, 2))


class TinyCritic(nn.Module):
    """Smooth and curved in the picture, the words and its weights, so that every term of the losses has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.realness, self.words = nn.Linear(12, 5), nn.Linear(5, 1), nn.Linear(2, 5)

    def forward(self, image: Tensor, words: Tensor) -> Tensor:
        hidden = F.softplus(self.enter(image.flatten(1)))
        return self.realness(hidden).squeeze(1) + (self.words(words) * hidden).sum(dim=1)


class TinyGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3 + 2, 4), nn.Linear(4, 12)

    def forward(self, noise: Tensor, words: Tensor) -> Tensor:
        hidden = torch.tanh(self.enter(torch.cat([noise, words], dim=1)))
        return self.leave(hidden).view(-1, 3, 2, 2)


@dataclass(frozen=True)
class Tiny:
    """Networks and a batch in double precision."""

    d: TinyCritic
    g: TinyGenerator
    real: Tensor
    noise: Tensor
    words: Tensor
    other_words: Tensor


@pytest.fixture
def tiny() -> Tiny:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shapes = [(4, 3, 2, 2), (4, 3), (4, 2), (4, 2)]
        batch = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
        return Tiny(TinyCritic().double(), TinyGenerator().double(), *batch)


def finite_differences(loss: Callable[[], Tensor], weights: nn.Parameter, step: float = 1e-5) -> Tensor:
    """The gradient of ``loss`` by central differences, one weight after another."""
    flat, gradient = weights.data.view(-1), torch.empty(weights.numel(), dtype=weights.dtype)
    for i in range(len(flat)):
        here = flat[i].item()
        flat[i] = here + step
        above = loss().item()
        flat[i] = here - step
        below = loss().item()
        flat[i] = here
        gradient[i] = (above - below) / (2 * step)
    return gradient.view_as(weights)


def assert_gradients_are_those_of_differences(loss: Callable[[], Tensor], net: nn.Module) -> None:
    net.zero_grad()
    loss().backward()
    for name, weights in net.named_parameters():
        found = torch.zeros_like(weights) if weights.grad is None else weights.grad
        expected = finite_differences(loss, weights)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("match", [0.0, 0.7])
def test_gradient_of_the_critic_agrees_with_finite_differences(tiny: Tiny, gamma: float, match: float) -> None:
    """With gamma also through the double backward of both penalties."""

    def loss() -> Tensor:
        fake = tiny.g(tiny.noise, tiny.words)
        return critic_loss(tiny.d, tiny.real, fake, tiny.words, tiny.other_words, gamma=gamma, match=match)

    assert_gradients_are_those_of_differences(loss, tiny.d)


def test_gradient_of_the_penalty_alone_agrees_with_finite_differences(tiny: Tiny) -> None:
    def loss() -> Tensor:
        _, penalty = gradient_penalty(tiny.d, tiny.real, tiny.words)
        return penalty.mean()

    assert_gradients_are_those_of_differences(loss, tiny.d)


def test_gradient_of_the_generator_agrees_with_finite_differences(tiny: Tiny) -> None:
    def loss() -> Tensor:
        return generator_loss(tiny.d, tiny.real, tiny.g(tiny.noise, tiny.words), tiny.words)

    assert_gradients_are_those_of_differences(loss, tiny.g)


def test_penalty_is_the_squared_gradient_by_finite_differences_in_the_picture(tiny: Tiny) -> None:
    picture = nn.Parameter(tiny.real.clone())
    gradient = finite_differences(lambda: tiny.d(picture, tiny.words).sum(), picture)
    penalty = gradient_penalty(tiny.d, tiny.real, tiny.words)[1]
    torch.testing.assert_close(penalty, gradient.square().flatten(1).sum(dim=1), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("count", [1, 3])
def test_penalties_of_a_linear_critic_do_not_depend_on_pictures_or_batch(count: int) -> None:
    """R1 = R2 = |w|^2: together gamma |w|^2, and the rest of the loss is two coin flips where D cannot tell apart."""
    words = torch.zeros(count, 2)
    same = images(-0.4, count)
    loss = critic_loss(linear(), same, same, words, words, gamma=0.3, match=0.5)
    assert loss.item() == pytest.approx(0.3 * W_SQUARE + 1.5 * math.log(2), rel=1e-5)


def test_wrong_words_lose_rank_by_a_step_down_the_mismatch_alone(tiny: Tiny) -> None:
    """The pictures are the same on both sides, so that L_D is flat: what moves is D(x, c) - D(x, c')."""

    def lead() -> float:
        with torch.no_grad():
            return (tiny.d(tiny.real, tiny.words) - tiny.d(tiny.real, tiny.other_words)).mean().item()

    before = lead()
    critic_loss(tiny.d, tiny.real, tiny.real, tiny.words, tiny.other_words, gamma=0.0, match=1.0).backward()
    with torch.no_grad():
        for weights in tiny.d.parameters():
            if weights.grad is not None:
                weights.sub_(0.01 * weights.grad)
    assert lead() > before


def test_mismatch_is_small_where_right_words_rank_above_wrong_ones() -> None:
    def mismatch(right: float, wrong: float) -> float:
        same, (c, other) = images(0.1), (torch.full((2, 2), value) for value in (right, wrong))
        losses = [
            critic_loss(linear(words=1.0), same, same, c, other, gamma=0.0, match=match).item() for match in (1.0, 0.0)
        ]
        return losses[0] - losses[1]

    assert mismatch(right=2.0, wrong=-1.0) == pytest.approx(f(6.0), rel=1e-3)
    assert mismatch(right=-1.0, wrong=2.0) == pytest.approx(f(-6.0), rel=1e-5)


def test_losses_take_points_in_the_plane_as_well_as_pictures() -> None:
    """(n, 2) has no height and width; `test_modes` trains on such points."""
    points, words = torch.ones(3, 2), torch.zeros(3, 2)
    critic = Linear(torch.tensor([1.0, 2.0]), torch.zeros(2))
    lazy, full = (
        critic_loss(critic, points, points, words, words, gamma=gamma, match=0.0).item() for gamma in (0.0, 2.0)
    )
    assert full - lazy == pytest.approx(2 * 5.0, rel=1e-5)


def test_reconstruction_loss_of_a_wrong_brightness_is_its_absolute_error() -> None:
    loss = reconstruction_loss(images(0.75), images(0.25))
    assert loss.tolist() == pytest.approx([0.5, 0.5])


def test_reconstruction_loss_also_counts_a_lost_edge() -> None:
    """Columns -1 and 1 against grey: error 1 everywhere, and the step of 2 is missing from every row."""
    real = images(-1.0, 1)
    real[..., 1] = 1.0
    assert reconstruction_loss(images(0.0, 1), real).tolist() == pytest.approx([1 + 0.5 * 2])
    assert reconstruction_loss(images(0.0, 1), real.mT).tolist() == pytest.approx([1 + 0.5 * 2])
