"""The networks of the text-conditional GAN: x = G(z, c) and D(x, c), with modern residual blocks and no normalisation.

The backbone follows R3GAN (Huang et al., "The GAN is dead; long live the GAN!", NeurIPS 2024, section 4): bottleneck
residual blocks, leaky ReLU, Fixup-style initialisation (the last layer of a block starts at zero) instead of
normalisation, bilinear-free resampling by pixel (un)shuffle. Its grouped convolutions are left out: under the double
backward pass of R1 and R2 they crawl on CPUs. The condition joins z in G and enters D by projection (Miyato & Koyama,
2018).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Task = Literal["words", "inpainting", "restoration"]
"""What G is given beside words and noise: nothing, a picture with a hole and its mask, or a damaged picture."""


@dataclass(frozen=True)
class GanConfig:
    """Sizes of the networks. ``widths`` are channels from 8x8 upwards, doubling the resolution at each step.

    ``resolution`` is ``8 * 2 ** len(widths)``: the last doubling is a pixel shuffle of the output layer.
    """

    text_dim: int = 192
    noise_dim: int = 64
    latent_channels: int = 16
    stem_width: int = 896
    stem_blocks: int = 2
    widths: tuple[int, ...] = (128, 80, 56)
    task: Task = "words"

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return int(8 * 2 ** len(self.widths))


class ResidualBlock(nn.Module):
    """3x3 convolutions around leaky ReLUs, added to the input; the last one starts at zero (Fixup)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.kaiming_normal_(self.first.weight, a=0.2)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> the same shape."""
        y = F.leaky_relu(self.first(F.leaky_relu(x, 0.2)), 0.2)
        result: Tensor = x + self.second(y)
        return result


class Decoder(nn.Module):
    """The upper half of G: latent (n, latent_channels, 8, 8) -> image (n, 3, r, r), nominally in [-1, 1]."""

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        widths = config.widths
        layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, widths[0], 3, padding=1), ResidualBlock(widths[0])]
        for before, after in itertools.pairwise(widths):
            # 1x1 then shuffle: a learned up-sampling that costs a quarter of a convolution at the larger size.
            layers += [ResidualBlock(before), nn.Conv2d(before, 4 * after, 1), nn.PixelShuffle(2)]
        layers += [ResidualBlock(widths[-1]), nn.LeakyReLU(0.2), nn.Conv2d(widths[-1], 12, 3, padding=1)]
        layers += [nn.PixelShuffle(2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor, given: Sequence[Tensor] = ()) -> Tensor:
        """See the class. ``given`` are features to add at 8x8, 16x16 ... (`GivenPicture`), or none."""
        x, waiting = latent, list(given)
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if waiting and (number == 0 or isinstance(layer, nn.PixelShuffle)):
                x = x + waiting.pop(0)
        return x


class Encoder(nn.Module):
    """Image (n, 3, r, r) -> features: the mirror image of `Decoder`, as autoencoder half and as backbone of D."""

    def __init__(self, config: GanConfig, out_channels: int) -> None:
        super().__init__()
        widths = config.widths[::-1]
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, widths[0], 3, padding=1)]
        for before, after in itertools.pairwise(widths):
            layers += [ResidualBlock(before), nn.PixelUnshuffle(2), nn.Conv2d(4 * before, after, 1)]
        layers += [ResidualBlock(widths[-1]), ResidualBlock(widths[-1]), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(widths[-1], out_channels, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """(n, 3, r, r) -> (n, out_channels, 8, 8)."""
        result: Tensor = self.layers(image)
        return result

    def begin_as(self, other: Encoder) -> None:
        """Takes over another's weights but for those of the last layer, whose channels mean something else."""
        self.layers[:-1].load_state_dict(other.layers[:-1].state_dict())


class GivenPicture(nn.Module):
    """A picture to go on from, and its mask (n, 4, r, r) -> features for the decoder at 8x8, 16x16 ... r/2 (U-Net)."""

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        self.enter = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(16, widths[0], 3, padding=1))
        self.blocks = nn.ModuleList(ResidualBlock(width) for width in widths)
        self.down = nn.ModuleList(
            nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * before, after, 1))
            for before, after in itertools.pairwise(widths)
        )
        self.leave = nn.ModuleList(nn.Conv2d(width, width, 1) for width in widths)

    def forward(self, given: Tensor) -> list[Tensor]:
        """See the class."""
        x, found = self.enter(given), []
        for level, (block, leave) in enumerate(zip(self.blocks, self.leave, strict=True)):
            x = block(x if level == 0 else self.down[level - 1](x))
            found.append(leave(x))
        return found[::-1]


class Stem(nn.Module):
    """The lower half of G: text (n, text_dim) joined to noise (n, noise_dim) -> latent (n, latent_channels, 8, 8)."""

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        width = config.stem_width
        self.channels = config.latent_channels
        self.enter = nn.Linear(config.text_dim + config.noise_dim, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(config.stem_blocks)
        )
        self.leave = nn.Linear(width, self.channels * 64)

    def forward(self, text: Tensor, noise: Tensor) -> Tensor:
        """See the class."""
        x = self.enter(torch.cat([text, noise], dim=1))
        for block in self.blocks:
            x = x + block(x)
        latent: Tensor = self.leave(F.gelu(x)).view(-1, self.channels, 8, 8)
        return latent


class GanGenerator(nn.Module):
    """x = G(z, c): `Stem` then `Decoder`; ``scale`` and ``shift`` undo the standardisation of the latents."""

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(config)
        self.decoder = Decoder(config)
        self.given = GivenPicture(config) if config.task != "words" else None
        self.register_buffer("scale", torch.ones(1, config.latent_channels, 1, 1))
        self.register_buffer("shift", torch.zeros(1, config.latent_channels, 1, 1))

    scale: Tensor
    shift: Tensor

    def forward(self, noise: Tensor, text: Tensor, given: Tensor | None = None) -> Tensor:
        """Noise (n, noise_dim), text (n, text_dim), given (n, 4, r, r) or None -> images (n, 3, r, r)."""
        return self.decode(self.latent(noise, text), given)

    def latent(self, noise: Tensor, text: Tensor) -> Tensor:
        """The lower half alone: -> standardised latents (n, latent_channels, 8, 8)."""
        result: Tensor = self.stem(text, noise)
        return result

    def decode(self, latent: Tensor, given: Tensor | None = None) -> Tensor:
        """The upper half alone: standardised latents -> images.

        ``given`` holds RGB, 0 in the holes, and a mask, 1 where pixels are to be made: what is made is added there and
        nowhere else, so that every other pixel stays what it was. A damaged picture has a mask of ones.
        """
        latent = (latent * self.scale + self.shift).contiguous(memory_format=torch.channels_last)
        if self.given is None or given is None:
            result: Tensor = self.decoder(latent)
            return result
        painted: Tensor = self.decoder(latent, self.given(given))
        return given[:, :3] + given[:, 3:] * painted


class Discriminator(nn.Module):
    """D(x, c): how real a picture is, and how well it goes with its words (projection)."""

    def __init__(self, config: GanConfig, feature_dim: int = 256) -> None:
        super().__init__()
        self.backbone = Encoder(config, 32)
        self.features = nn.Linear(32 * 64, feature_dim)
        # No bias: the relativistic losses see differences alone, and it would drift on rounding.
        self.realness = nn.Linear(feature_dim, 1, bias=False)
        self.words = nn.Linear(config.text_dim, feature_dim)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Images (n, 3, r, r), text (n, text_dim) -> logits (n,)."""
        hidden = F.leaky_relu(self.features(self.backbone(image).flatten(1)), 0.2)
        match = (self.words(text) * hidden).sum(dim=1) / math.sqrt(hidden.shape[1])
        result: Tensor = self.realness(hidden).squeeze(1) + match
        return result


def parameters_of(modules: Sequence[nn.Module]) -> int:
    """Number of parameters."""
    return sum(p.numel() for module in modules for p in module.parameters())
