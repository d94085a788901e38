"""Changes of training pictures: known by their draws, the same for a sample wherever it is made."""

from __future__ import annotations

import torch

from actors.augment import DRAWS, Augmentation, augment, draw
from actors.gan_measures import laplacian_energy

SQUARE = torch.ones(1, 3, 32, 32)
SQUARE[:, :, 12:20, 12:20] = -1


def centre(image: torch.Tensor) -> tuple[float, float]:
    """Where the dark is, (across, down) in pixels."""
    dark = (1 - image[0].mean(dim=0)) / 2
    grid = torch.arange(32.0)
    return ((dark.sum(dim=0) * grid).sum() / dark.sum()).item(), ((dark.sum(dim=1) * grid).sum() / dark.sum()).item()


def changed(**draws: float) -> torch.Tensor:
    names = ["across", "down", "size", "turn", "brightness", "warmth", "mirror"]
    row = torch.tensor([[draws.get(name, 0.0) for name in names]])
    return augment(SQUARE, row, Augmentation(shift=0.125, scale=0.3, flip=True))


def test_no_draw_no_change():
    torch.testing.assert_close(augment(SQUARE, torch.zeros(1, DRAWS), Augmentation()), SQUARE)


def test_shift_moves_the_thing_and_keeps_the_background():
    moved = changed(across=1.0, mirror=1.0)
    across, down = centre(moved)
    assert abs(across - (centre(SQUARE)[0] + 4)) < 0.1
    assert abs(down - centre(SQUARE)[1]) < 0.1
    assert moved[0, :, 0, 0].tolist() == [1.0, 1.0, 1.0]


def test_a_shift_by_half_a_pixel_keeps_fine_stripes():
    stripes = torch.sin(torch.arange(32) * torch.pi / 2 + 0.3).expand(1, 3, 32, 32)
    moved = augment(stripes, torch.tensor([[1.0, 0, 0, 0, 0, 0, 0]]), Augmentation(shift=0.5 / 32))
    assert laplacian_energy(moved) > 0.8 * laplacian_energy(stripes)


def test_size_grows_with_its_draw():
    dark = [(1 - changed(size=size, mirror=1.0)).sum().item() for size in (-1.0, 0.0, 1.0)]
    assert dark[0] < dark[1] < dark[2]


def test_warmth_tints_the_thing_and_leaves_white_white():
    image = SQUARE.clone()
    image[:, :, 12:20, 12:20] = 0
    warm = augment(image, torch.tensor([[0, 0, 0, 0, 0, 1.0, 1.0]]), Augmentation(warmth=0.2))
    red, _, blue = warm[0, :, 16, 16].tolist()
    assert red > blue
    assert warm[0, :, 2, 2].tolist() == [1.0, 1.0, 1.0]


def test_mirror_only_where_allowed():
    image = SQUARE.clone()
    image[:, :, :, 24:] = 0
    draws = torch.tensor([[0, 0, 0, 0, 0, 0, -1.0]])
    torch.testing.assert_close(augment(image, draws, Augmentation(flip=True)), image.flip(3))
    torch.testing.assert_close(augment(image, draws, Augmentation()), image)


def test_draws_belong_to_the_sample():
    together = draw(3, torch.tensor([5, 9, 11]))
    assert torch.equal(together[1:], draw(3, torch.tensor([9, 11])))
    assert not torch.equal(together, draw(4, torch.tensor([5, 9, 11])))
