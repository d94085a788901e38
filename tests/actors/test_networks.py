"""G and D at every resolution that a config can ask for, and what G does with a picture to go on from."""

import pytest
import torch

from actors.networks import Discriminator, GanConfig, GanGenerator
from actors.objective import gradient_penalty


def config(levels: int, task: str = "words") -> GanConfig:
    return GanConfig(
        text_dim=6, noise_dim=5, latent_channels=3, stem_width=8, stem_blocks=1, widths=(4,) * levels, task=task
    )


@pytest.mark.parametrize(("levels", "side"), [(1, 16), (2, 32), (3, 64), (4, 128), (5, 256)])
def test_the_number_of_widths_is_the_resolution(levels, side):
    sizes = config(levels)
    assert sizes.resolution == side
    made = GanGenerator(sizes)(torch.randn(2, 5), torch.randn(2, 6))
    assert made.shape == (2, 3, side, side)
    logits, penalty = gradient_penalty(Discriminator(sizes), made.detach(), torch.randn(2, 6))
    assert logits.shape == penalty.shape == (2,)
    assert (penalty > 0).all()


@pytest.mark.parametrize("task", ["inpainting", "restoration"])
def test_only_what_the_mask_names_is_painted(task):
    torch.manual_seed(0)
    generator = GanGenerator(config(2, task))
    mask = torch.zeros(2, 1, 32, 32)
    mask[:, :, 8:20, 4:9] = 1
    given = torch.cat([torch.randn(2, 3, 32, 32), mask], dim=1)
    made = generator(torch.randn(2, 5), torch.randn(2, 6), given)
    outside = (mask == 0).expand_as(made)
    assert torch.equal(made[outside], given[:, :3][outside])
    assert not torch.equal(made[~outside], given[:, :3][~outside])


def test_what_is_painted_depends_on_words_noise_and_the_picture():
    torch.manual_seed(0)
    generator = GanGenerator(config(2, "inpainting"))
    for parameter in generator.parameters():  # blocks start as the identity: nothing passes through them yet
        torch.nn.init.normal_(parameter, std=0.3)
    noise, words = torch.randn(1, 5), torch.randn(1, 6)
    given = torch.cat([torch.randn(1, 3, 32, 32), torch.ones(1, 1, 32, 32)], dim=1)
    painted = generator(noise, words, given) - given[:, :3]
    for other in ((noise + 1, words, given), (noise, words + 1, given)):
        assert not torch.allclose(generator(*other) - other[2][:, :3], painted, atol=1e-3)
    changed = given.clone()
    changed[:, :3, 0, 0] += 5
    assert not torch.allclose(generator(noise, words, changed) - changed[:, :3], painted, atol=1e-3)
