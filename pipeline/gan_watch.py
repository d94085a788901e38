"""A look at the GAN in training: a sample sheet, and measures against pictures of the table."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from actors.batched import embed_captions, embed_pictures, render_captions
from actors.damage import damage
from actors.gan_measures import laplacian_energy, r_precision
from actors.gan_model import GanModel
from actors.image_text import ImageText
from actors.training_loop import Values
from pipeline.captioned import CaptionedTable
from pipeline.gan_config import Watch
from pipeline.metrics.distribution import frechet_distance
from pipeline.metrics.moments import Moments
from pipeline.metrics.variety import mean_distance
from pipeline.sample_sheet import draw_sheet, lay_out
from pipeline.watch_rows import choose_rows

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
            # Here: most runs never need it, and torchmetrics and OpenCV take every worker half a second to import.
            from pipeline.mend_measures import mending

            found = mending(task, *self._mended(model))
            return {**found, "score": found["psnr"]}
        self._see(model)
        assert self._real is not None
        made = render_captions(model, self._captions, self._seed)
        real_seen, made_seen = embed_pictures(self._encoder, self._real), embed_pictures(self._encoder, made)
        words = embed_captions(self._encoder, self._captions)
        varied = [text for text in self._captions[:_VARIED] for _ in range(_EACH)]
        apart = embed_pictures(self._encoder, render_captions(model, varied, self._seed + 1)).view(
            -1, _EACH, made_seen.shape[1]
        )
        right = r_precision(made_seen, words, self._shown.true(), self._seed)
        return {
            "fd": frechet_distance(Moments.of(real_seen.numpy()), Moments.of(made_seen.numpy())),
            "r_precision": right,
            "r_precision_real": r_precision(real_seen, words, self._shown.true(), self._seed),
            "diversity": sum(mean_distance(group.numpy()) for group in apart) / len(apart),
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
        return self._real, given, render_captions(model, self._captions, self._seed, given)
