"""Noise that is chosen, words that are wrong, pictures that are damaged: of a sample alone, wherever it is trained."""

import pytest
import torch

from actors.damage import damage
from actors.gan_phases import Play, Weights, nearest_noise, wrong_words
from actors.networks import Discriminator, GanConfig, GanGenerator
from actors.objective import reconstruction_loss


def test_the_noise_whose_latent_is_nearest_is_chosen():
    noises = torch.tensor([[[0.0], [5.0]], [[1.0], [2.0]], [[3.0], [3.0]]])
    chosen = nearest_noise(lambda noise: noise, noises, torch.tensor([[0.9], [2.9]]))
    assert chosen.tolist() == [[1.0], [3.0]]


def test_only_aimed_pictures_are_held_to_their_training_picture():
    torch.manual_seed(0)
    config = GanConfig(text_dim=4, noise_dim=8, latent_channels=4, stem_width=16, stem_blocks=1, widths=(8,))
    generator = GanGenerator(config)
    real, noise, words = torch.rand(3, 3, 16, 16), torch.randn(3, 8), torch.randn(3, 4)
    play = Play(generator, Discriminator(config), Weights(0.0, 1.0, 0.0), None)
    loss, _, fake = play(real, noise, torch.tensor([0.0, 2.0, 0.0]), words, None, None, 1.0)
    assert torch.allclose(loss, 2 * reconstruction_loss(fake, real)[1] / 3)


def test_wrong_words_are_the_next_that_are_not_true():
    words = torch.arange(4.0)[:, None]
    positive = torch.eye(4, dtype=torch.bool)
    positive[0, 1] = True
    positive[3] = True
    others, distinct = wrong_words(words, positive, 0)
    assert others[:3].flatten().tolist() == [2.0, 2.0, 3.0]
    assert distinct.tolist() == [1, 1, 1, 0]


def test_two_workers_find_the_wrong_words_of_one():
    torch.manual_seed(0)
    words, positive = torch.arange(8.0)[:, None], torch.rand(8, 8) < 0.4
    whole, _ = wrong_words(words, positive, 0)
    halves = [wrong_words(words, positive[first : first + 4], first)[0] for first in (0, 4)]
    assert torch.equal(torch.cat(halves), whole)


@pytest.mark.parametrize("task", ["inpainting", "restoration"])
def test_damage_depends_on_the_sample_alone(task):
    torch.manual_seed(0)
    images, samples = torch.rand(6, 3, 32, 32) * 2 - 1, torch.arange(6) + 100
    whole = damage(task, images, 7, samples)
    parts = [damage(task, images[first::2], 7, samples[first::2]) for first in (0, 1)]
    assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), whole)
    assert not torch.equal(damage(task, images, 8, samples), whole)


def test_holes_hide_what_is_under_them_and_nothing_else():
    images = torch.rand(64, 3, 32, 32) * 2 - 1
    given = damage("inpainting", images, 0, torch.arange(64))
    mask = given[:, 3:]
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    share = mask.mean(dim=(1, 2, 3))
    assert share.min() > 0.02
    assert share.max() < 0.7
    assert (given[:, :3][(mask == 1).expand_as(images)] == 0).all()
    known = (mask == 0).expand_as(images)
    assert torch.equal(given[:, :3][known], images[known])


def test_damaged_pictures_keep_their_subject_and_lose_their_detail():
    ramp = torch.linspace(-0.9, 0.9, 32).expand(8, 3, 32, 32)
    fine = (torch.arange(32) % 2 * 2.0 - 1).expand(8, 3, 32, 32) * 0.9
    smooth, checked = (damage("restoration", images, 0, torch.arange(8)) for images in (ramp, fine))
    assert (smooth[:, 3] == 1).all()
    assert (smooth[:, :3] - ramp).abs().mean() < 0.1
    assert checked[:, :3].std() < 0.4
