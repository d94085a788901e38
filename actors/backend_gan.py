"""The backend `gan`: renders with this project's text-conditional generator, one forward pass an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from actors.contracts import ImageJob, Pixels
from actors.errors import RowError
from actors.gan_model import load_gan
from actors.images import to_pixels
from actors.seeds import image_generator

_CALL = 8


class GanBackend:
    """Renders 64x64 (or whatever the model was trained for); there is no other size, and no negative prompt.

    Matrix products and convolutions choose their kernels by the number of rows, so the last bits of a picture would
    depend on the size of its batch (seen: 1e-6, enough to flip a pixel's level). Hence the words go through the text
    encoder and G's linear layers one by one, and the convolutions always in calls of one size, the last padded.
    """

    def __init__(self, model_dir: Path, device: torch.device) -> None:
        self._model = load_gan(model_dir)
        self._device = device
        self._model.generator.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._model.text_encoder.to(device)
        side = self._model.generator.config.resolution
        self.native_size = (side, side)

    def check(self, job: ImageJob) -> None:
        """Raises `RowError` for any size but the model's own."""
        width, height = self.native_size
        asked = (width if job.width is None else job.width, height if job.height is None else job.height)
        if asked != self.native_size:
            raise RowError("bad_size", f"this GAN makes {width}x{height} images alone, not {asked[0]}x{asked[1]}")

    @torch.inference_mode()
    def render(self, jobs: Sequence[ImageJob]) -> list[Pixels]:
        """See `actors.contracts.Backend`. Raises `actors.images.SomeRowsError` for images that are not finite."""
        if not jobs:
            return []
        generator = self._model.generator
        latents = []
        for job in jobs:
            text = self._model.embed([job.text])
            noise = torch.randn(1, generator.config.noise_dim, generator=image_generator(job.seed)).to(self._device)
            latents.append(generator.latent(noise, text))
        filler = -len(latents) % _CALL
        stacked = torch.cat([*latents, *latents[-1:] * filler])
        pictures = [generator.decode(part) for part in stacked.split(_CALL)]
        return to_pixels(torch.cat(pictures)[: len(jobs)])
