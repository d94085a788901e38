"""The backend `gan`: renders with this project's text-conditional generator, one forward pass an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from actors.contracts import ImageJob, Pixels
from actors.damage import with_holes
from actors.decode import LARGEST, decode_image, square
from actors.errors import RowError
from actors.gan_model import load_gan
from actors.images import to_pixels
from actors.networks import Task
from actors.seeds import image_generator
from actors.training_batch import unit_images

T = TypeVar("T")
_CALL = 16
"""Rows of every call of a network."""
_STRIDE = 16
"""Words are padded to a multiple of so many tokens, which their own number alone decides."""


class GanBackend:
    """Renders 64x64 (or whatever the model was trained for); there is no other size, and no negative prompt.

    Matrix products and convolutions choose their kernels by the number of rows, so the last bits of a picture would
    depend on the size of its batch (seen: 1e-6, enough to flip a pixel's level). Hence every network is called with
    one number of rows, the last call filled up, and words go with words of about their own length.
    """

    def __init__(self, model_dir: Path, device: torch.device) -> None:
        self._model = load_gan(model_dir)
        self._device = device
        self._model.generator.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._model.text_encoder.to(device)
        side = self._model.generator.config.resolution
        self.native_size = (side, side)
        self._task: Task = self._model.generator.config.task

    def check(self, job: ImageJob) -> None:
        """Raises `RowError` for any size but the model's own."""
        width, height = self.native_size
        asked = (width if job.width is None else job.width, height if job.height is None else job.height)
        if asked != self.native_size:
            raise RowError("bad_size", f"this GAN makes {width}x{height} images alone, not {asked[0]}x{asked[1]}")
        if self._task != "words":
            self._given(job)

    @torch.inference_mode()
    def render(self, jobs: Sequence[ImageJob]) -> list[Pixels]:
        """See `actors.contracts.Backend`. Raises `actors.images.SomeRowsError` for images that are not finite."""
        if not jobs:
            return []
        generator = self._model.generator
        words = self._embed(list(dict.fromkeys(job.text for job in jobs)))
        noise = [torch.randn(generator.config.noise_dim, generator=image_generator(job.seed)) for job in jobs]
        given = [self._given(job) for job in jobs] if self._task != "words" else []
        pictures = []
        for start in range(0, len(jobs), _CALL):
            part = slice(start, start + _CALL)
            text = torch.stack(_filled([words[job.text] for job in jobs[part]]))
            latents = generator.latent(torch.stack(_filled(noise[part])).to(self._device), text)
            damaged = torch.cat(_filled(given[part])).to(self._device) if given else None
            pictures.append(generator.decode(latents, damaged))
        return to_pixels(torch.cat(pictures)[: len(jobs)])

    def _embed(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The condition vector of each text."""
        model, found = self._model, dict[str, Tensor]()
        alike: dict[int, list[tuple[str, list[int]]]] = {}
        for text, tokens in zip(texts, model.tokens(texts), strict=True):
            length = min(-(-len(tokens) // _STRIDE) * _STRIDE, model.max_tokens)
            alike.setdefault(length, []).append((text, tokens))
        for length, group in alike.items():
            for start in range(0, len(group), _CALL):
                part = group[start : start + _CALL]
                vectors = model.embed_tokens(_filled([tokens for _, tokens in part]), length)
                found |= {text: vector for (text, _), vector in zip(part, vectors, strict=False)}
        return found

    def _given(self, job: ImageJob) -> Tensor:
        """What G is given of a job, (1, 4, r, r); raises `RowError` where the job does not have it."""
        if job.picture is None:
            raise RowError("no_picture", "this GAN mends pictures, and the row's image is null")
        if job.mask is None and self._task == "inpainting":
            raise RowError("no_mask", "this GAN fills holes, and the row has no mask: white where it is to paint")
        side = self.native_size[0]
        try:
            picture = unit_images(torch.from_numpy(square(decode_image(job.picture, LARGEST), side))[None])
            if job.mask is None:
                return with_holes(picture, torch.ones_like(picture[:, :1]), keep=True)
            hole = unit_images(torch.from_numpy(square(decode_image(job.mask, LARGEST), side))[None]).mean(
                dim=1, keepdim=True
            )
        except ValueError as error:
            raise RowError("bad_picture", str(error)) from error
        return with_holes(picture, (hole > 0).float(), keep=self._task == "restoration")


def _filled(rows: Sequence[T]) -> list[T]:
    """The rows of one call; the last one again and again where they are too few."""
    return [*rows, *[rows[-1]] * (_CALL - len(rows))]
