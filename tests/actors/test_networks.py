"""What the GAN's networks promise: shapes from a config alone, no batch statistics, words by projection."""

import pytest
import torch
from torch import Tensor

from actors.networks import Decoder, Discriminator, Encoder, GanConfig, GanGenerator, ResidualBlock

TINY = GanConfig(text_dim=6, noise_dim=4, latent_channels=4, stem_width=12, stem_blocks=1, widths=(8, 8))


def awake(module: torch.nn.Module) -> torch.nn.Module:
    """Random weights everywhere: layers that start at zero would hide what they do with their input."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(("widths", "side"), [((8,), 16), ((8, 8), 32), ((8, 6, 4), 64), ((8, 6, 4, 4, 4), 256)])
def test_number_of_widths_decides_the_resolution_of_all_networks(widths: tuple[int, ...], side: int) -> None:
    config = GanConfig(text_dim=6, noise_dim=4, latent_channels=4, stem_width=12, stem_blocks=1, widths=widths)
    image = GanGenerator(config)(draw(1, 4), draw(1, 6))
    assert config.resolution == side
    assert image.shape == (1, 3, side, side)
    assert Encoder(config, 5)(image).shape == (1, 5, 8, 8)
    assert Discriminator(config)(image, draw(1, 6)).shape == (1,)


def test_residual_block_adds_nothing_that_depends_on_its_input_at_first() -> None:
    """Fixup: a fresh network is as deep as its shortcuts. (The last bias is a constant for each channel.)"""
    x = draw(2, 8, 4, 4)
    block = ResidualBlock(8)
    constant = block.second.bias.view(1, 8, 1, 1).expand_as(x)
    torch.testing.assert_close(block(x) - x, constant)
    assert not torch.allclose(awake(block)(x) - x, constant)


def test_both_noise_and_words_reach_the_picture() -> None:
    generator = awake(GanGenerator(TINY))
    noise, words = draw(2, 4), draw(2, 6)
    first = generator(noise[:1], words[:1])
    assert not torch.equal(first, generator(noise[1:], words[:1]))
    assert not torch.equal(first, generator(noise[:1], words[1:]))


def test_picture_and_logit_do_not_depend_on_the_rest_of_the_batch() -> None:
    generator, critic = awake(GanGenerator(TINY)), awake(Discriminator(TINY))
    noise, words = draw(5, 4), draw(5, 6)
    images = generator(noise, words)
    torch.testing.assert_close(generator(noise[3:4], words[3:4]), images[3:4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(critic(images[3:4], words[3:4]), critic(images, words)[3:4], rtol=1e-4, atol=1e-4)


def test_decode_undoes_the_standardisation_of_latents() -> None:
    generator = awake(GanGenerator(TINY))
    latent = draw(2, 4, 8, 8)
    mean, deviation = draw(1, 4, 1, 1), draw(1, 4, 1, 1).abs() + 0.5
    generator.shift.copy_(mean)
    generator.scale.copy_(deviation)
    torch.testing.assert_close(generator.decode((latent - mean) / deviation), generator.decoder(latent))


def test_scale_and_shift_are_saved_with_the_generator() -> None:
    assert {"scale", "shift"} <= set(GanGenerator(TINY).state_dict())


def test_words_enter_the_critic_by_projection() -> None:
    """D(x, c) is affine in c: its slope is a dot product with the picture's features."""
    critic = awake(Discriminator(TINY))
    image, first, second = draw(3, 3, 32, 32), draw(3, 6), draw(3, 6) + 1
    between = critic(image, 0.25 * first + 0.75 * second)
    torch.testing.assert_close(between, 0.25 * critic(image, first) + 0.75 * critic(image, second))
    assert not torch.allclose(critic(image, first), critic(image, second))


def test_critic_can_be_differentiated_twice() -> None:
    """R1 and R2 need the gradient of a gradient, in every layer that makes up the logit's slope."""
    critic = awake(Discriminator(TINY))
    image = draw(2, 3, 32, 32).requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(image, draw(2, 6)).sum(), image, create_graph=True)
    gradient.square().sum().backward()
    for name, parameter in critic.named_parameters():
        if name.endswith("weight"):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_every_parameter_of_the_generator_gets_a_gradient() -> None:
    generator = awake(GanGenerator(TINY))
    generator(draw(2, 4), draw(2, 6)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in generator.parameters())


def test_decoder_sees_beyond_its_own_cell() -> None:
    """A 3x3 backbone spreads a change of one latent cell to its neighbours: no seams between 8x8 cells."""
    decoder = awake(Decoder(TINY))
    latent = draw(1, 4, 8, 8)
    changed = latent.clone()
    changed[0, :, 4, 4] += 1
    moved = (decoder(changed) - decoder(latent)).abs().sum(dim=1)[0]
    assert moved[16:20, 16:20].min() > 0
    assert moved[12:16, 12:16].min() > 0
    assert moved[20:24, 20:24].min() > 0
