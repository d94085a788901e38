"""Pictures of the prompt table as a `diffusers` pipeline wants them, and what it made put back where it belongs.

A picture goes in at the size of the image that comes out: the row's or the config's, else its own, cut to what the
pipeline can make. It is scaled to cover that size and cut in the middle, never stretched, and its mask with it. A
pipeline also redraws what lies outside the mask, through its autoencoder: those pixels are put back as they were.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from actors.contracts import ImageJob, Pixels
from actors.decode import LARGEST, decode_image
from actors.errors import RowError


@dataclass(frozen=True)
class Given:
    """A row's picture in the size of its image, and where there is one the mask: white (255) where it is to paint."""

    picture: Image.Image
    mask: Image.Image | None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        found: tuple[int, int] = self.picture.size
        return found

    def mended(self, made: Pixels) -> Pixels:
        """``made`` under the mask, the picture elsewhere; ``made`` where there is no mask, or it has another size."""
        if self.mask is None or made.shape[:2] != self.size[::-1]:
            return made
        hole: NDArray[np.bool_] = np.asarray(self.mask) > 0
        return np.where(hole[:, :, None], made, np.asarray(self.picture))


def given(job: ImageJob, width: int | None, height: int | None, multiple: int, *, masked: bool) -> Given:
    """The picture of a job, ready for the pipeline.

    Args:
        width: pixels; None follows the picture, in its proportions where ``height`` is given.
        height: likewise.
        multiple: sides that follow the picture are cut to a multiple of this many pixels.
        masked: whether the mask is used; it counts as painted from half white on.

    Raises:
        RowError: no picture, no mask, or files that hold none.
    """
    if job.picture is None:
        raise RowError("no_picture", "the image stage starts from a picture, and the row's image is null")
    if masked and job.mask is None:
        raise RowError("no_mask", "the image stage fills holes, and the row has no mask: white where it is to paint")
    try:
        picture = decode_image(job.picture, LARGEST)
        mask = decode_image(job.mask, LARGEST) if masked and job.mask is not None else None
    except ValueError as error:
        raise RowError("bad_picture", str(error)) from error
    size = _size(picture, width, height, multiple)
    if min(size) < multiple:
        raise RowError("bad_size", f"the picture has {picture.width}x{picture.height} pixels: it is too small")
    fitted = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    if mask is None:
        return Given(fitted, None)
    # A mask drawn in another size lies over the whole picture, so it is brought to the picture's before both are cut.
    white = ImageOps.fit(mask.convert("L").resize(picture.size, Image.Resampling.BILINEAR), size)
    return Given(fitted, white.point(lambda level: 255 if level >= 128 else 0))


def _size(picture: Image.Image, width: int | None, height: int | None, multiple: int) -> tuple[int, int]:
    wide = width or round(picture.width * (height or picture.height) / picture.height) // multiple * multiple
    high = height or round(picture.height * (width or picture.width) / picture.width) // multiple * multiple
    return wide, high
