"""GAN and encoder over more rows than one call should take; what comes out is on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from actors.gan_model import GanModel
from actors.image_text import ImageText, resample
from actors.seeds import derive_seed, image_generator

_CALL = 32


@torch.inference_mode()
def render_captions(model: GanModel, captions: Sequence[str], seed: int, given: Tensor | None = None) -> Tensor:
    """A picture of each caption, (n, 3, r, r); its noise comes from seed and place.

    ``given`` (n, 4, r, r) are the pictures to go on from, where the model mends pictures.
    """
    width, device, made = model.generator.config.noise_dim, model.text_encoder.device, []
    for first, part in _parts(captions):
        seeds = [derive_seed(seed, "watch", first + number) for number in range(len(part))]
        noise = torch.cat([torch.randn(1, width, generator=image_generator(one)) for one in seeds])
        damaged = None if given is None else given[first:][: len(part)].to(device)
        made.append(model.generator(noise.to(device), model.embed(part), damaged).float().cpu())
    return torch.cat(made)


@torch.inference_mode()
def embed_pictures(encoder: ImageText, images: Tensor) -> Tensor:
    """Images (n, 3, r, r) of any size in the encoder's space, (n, d) of length one."""
    side, parts = encoder.model.config.vision_config.image_size, []
    for part in images.clamp(-1, 1).split(_CALL):
        parts.append(encoder.embed_images(resample(part.to(encoder.model.device), side)).cpu())
    return torch.cat(parts)


@torch.inference_mode()
def embed_captions(encoder: ImageText, captions: Sequence[str]) -> Tensor:
    """Captions in the encoder's space, (n, d) of length one."""
    return torch.cat([encoder.embed_words(part).cpu() for _, part in _parts(captions)])


def _parts(captions: Sequence[str]) -> list[tuple[int, list[str]]]:
    return [(first, list(captions[first : first + _CALL])) for first in range(0, len(captions), _CALL)]
