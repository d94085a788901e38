"""Measures of a GAN in training, on cases whose answer is known."""

import pytest
import torch
from torch.nn import functional as F

from actors.gan_measures import laplacian_energy, r_precision


def test_r_precision_of_right_wrong_and_chance():
    torch.manual_seed(0)
    words = F.normalize(torch.randn(400, 64), dim=1)
    alone = torch.eye(400, dtype=torch.bool)
    assert r_precision(words, words, alone, 0) == 1
    assert r_precision(words.roll(1, dims=0), words, alone, 0) < 0.3
    noise = F.normalize(torch.randn(400, 64), dim=1)
    assert r_precision(noise, words, alone, 0) == pytest.approx(0.01, abs=0.02)


def test_words_that_are_true_of_a_picture_too_are_no_wrong_answers():
    words = torch.eye(4)
    pictures = torch.eye(4).roll(1, dims=0)  # each looks like its neighbour's words
    alone = torch.eye(4, dtype=torch.bool)
    assert r_precision(pictures, words, alone, 0) == 0
    assert r_precision(pictures, words, torch.ones(4, 4, dtype=torch.bool), 0) == 1


def test_blurred_pictures_have_less_laplacian_energy():
    torch.manual_seed(0)
    sharp = torch.rand(2, 3, 32, 32)
    assert laplacian_energy(torch.full((1, 3, 8, 8), 0.3)) == pytest.approx(0, abs=1e-10)
    assert laplacian_energy(F.avg_pool2d(sharp, 3, 1, 1)) < 0.3 * laplacian_energy(sharp)
