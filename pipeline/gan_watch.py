"""A look at the GAN in training: a sample sheet, and measures against pictures of the table."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from actors.damage import damage
from actors.gan_measures import frechet_distance, laplacian_energy, mean_distance, r_precision
from actors.gan_model import GanModel
from actors.image_text import ImageText, resample
from actors.seeds import derive_seed, image_generator
from actors.training_loop import Values
from pipeline.captioned import CaptionedTable
from pipeline.gan_config import Watch
from pipeline.mend_measures import mending
from pipeline.sample_sheet import draw_sheet, lay_out
from pipeline.watch_rows import choose_rows

_CALL = 32
_EACH = 4
"""Pictures of one caption that diversity is measured on."""
_VARIED = 25
"""Captions that it is measured on."""


class GanWatch:
    """Measures one GAN again and again, with the same captions and seeds.

    Args:
        settings: of the config.
        table: where pictures and captions come from.
        encoder: the frozen judge, on its device.
        seed: chooses pictures, captions and noise.
    """

    def __init__(self, settings: Watch, table: CaptionedTable, encoder: ImageText, seed: int) -> None:
        self._settings, self._encoder, self._seed = settings, encoder, seed
        self._shown = choose_rows(table, max(settings.pictures, 1), seed)
        self._captions = self._shown.captions
        self._real: Tensor | None = None

    def sheet(self, model: GanModel) -> Image.Image:
        """The sample sheet; where pictures are mended each row is what was given, what was made, and the truth."""
        if model.generator.config.task != "words":
            real, given, made = (images[:24] for images in self._mended(model))
            rows = [torch.stack(row) for row in zip(given[:, :3], made, real, strict=True)]
            return lay_out(self._captions[:24], rows, self._settings.columns)
        captions = self._settings.sheet or list(dict.fromkeys(self._captions))[:24]
        return draw_sheet(model, captions, self._settings.each, self._settings.columns)

    @torch.inference_mode()
    def measure(self, model: GanModel) -> Values:
        """Measures, or nothing where the config asks for none. ``score`` says which checkpoint is best.

        ``fd`` is a Frechet distance in this encoder's features and not comparable to anyone's FID; ``sharpness`` is the
        Laplacian energy over that of the real pictures; ``nearest`` the mean cosine to the nearest of them.
        """
        if not self._settings.pictures:
            return {}
        task = model.generator.config.task
        if task != "words":
            found = mending(task, *self._mended(model))
            return {**found, "score": found["psnr"]}
        self._see(model)
        assert self._real is not None
        made = _render(model, self._captions, self._seed)
        real_seen, made_seen = self._embed(self._real), self._embed(made)
        words = torch.cat([self._encoder.embed_words(part).cpu() for part in _parts(self._captions)])
        varied = [text for text in self._captions[:_VARIED] for _ in range(_EACH)]
        apart = self._embed(_render(model, varied, self._seed + 1)).view(-1, _EACH, made_seen.shape[1])
        right = r_precision(made_seen, words, self._shown.true(), self._seed)
        return {
            "fd": frechet_distance(real_seen, made_seen),
            "r_precision": right,
            "r_precision_real": r_precision(real_seen, words, self._shown.true(), self._seed),
            "diversity": mean_distance(apart),
            "nearest": float((made_seen @ real_seen.T).max(dim=1).values.mean()),
            "sharpness": laplacian_energy(made) / max(laplacian_energy(self._real), 1e-12),
            "score": right,
        }

    def _see(self, model: GanModel) -> None:
        if self._real is None:
            self._real = self._shown.pictures(model.generator.config.resolution)

    @torch.inference_mode()
    def _mended(self, model: GanModel) -> tuple[Tensor, Tensor, Tensor]:
        """The truth, what G is given, and what it makes of it."""
        self._see(model)
        assert self._real is not None
        given = damage(model.generator.config.task, self._real, self._seed, torch.arange(len(self._real)))
        return self._real, given, _render(model, self._captions, self._seed, given)

    def _embed(self, images: Tensor) -> Tensor:
        model = self._encoder.model
        side, parts = model.config.vision_config.image_size, []
        for part in images.clamp(-1, 1).split(_CALL):
            fitting = resample(part.to(model.device), side)
            parts.append(self._encoder.embed_images(fitting).cpu())
        return torch.cat(parts)


def _render(model: GanModel, captions: Sequence[str], seed: int, given: Tensor | None = None) -> Tensor:
    config, device, made = model.generator.config, model.text_encoder.device, []
    for first, part in enumerate(_parts(captions)):
        seeds = [derive_seed(seed, "watch", first * _CALL + number) for number in range(len(part))]
        noise = torch.cat([torch.randn(1, config.noise_dim, generator=image_generator(one)) for one in seeds])
        damaged = None if given is None else given[first * _CALL :][: len(part)].to(device)
        made.append(model.generator(noise.to(device), model.embed(part), damaged).float().cpu())
    return torch.cat(made)


def _parts(captions: Sequence[str]) -> list[list[str]]:
    return [list(captions[first : first + _CALL]) for first in range(0, len(captions), _CALL)]
