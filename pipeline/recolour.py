"""Pictures as pixels: on white, their one colour, in other colours, and which of them are nearly the same picture."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.caption_grammar import COLOURS

Picture = NDArray[np.uint8]
Thumbnails = NDArray[np.float32]
_BROWN = 0.72
"""Mean brightness below which an orange is a brown."""
_SAME = 12.0
"""Two pictures are nearly the same below this root of the mean squared difference (8-bit values, 16x16 pixels)."""


def on_white(png: bytes) -> Picture:
    """A picture's pixels, its transparent parts white."""
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    white.alpha_composite(picture)
    return np.asarray(white.convert("RGB"))


def dominant_hue(pixels: Picture) -> float | None:
    """The hue (0..1) that most of a picture's coloured pixels share; None where it has little colour or many.

    The mean direction of the hues of saturated pixels; its length says how far they agree (circular statistics).
    """
    hsv = _hsv(pixels).astype(np.float32) / np.float32(255)
    coloured = _coloured(hsv)
    if coloured.mean() < 0.08:
        return None
    mean = np.exp(2j * np.pi * hsv[..., 0][coloured]).mean()
    return None if abs(mean) < 0.75 else float(np.angle(mean) / (2 * np.pi) % 1)


def colour_name(pixels: Picture) -> str | None:
    """The word for a picture's dominant hue, ``brown`` where it is a dark orange."""
    hue = dominant_hue(pixels)
    if hue is None:
        return None
    name = min(COLOURS, key=lambda name: hue_distance(COLOURS[name].hue, hue))
    hsv = _hsv(pixels).astype(np.float32) / np.float32(255)
    dark = hsv[..., 2][_coloured(hsv)].mean() < _BROWN
    return "brown" if dark and 0.02 < hue < 0.13 else name


def hue_distance(a: float, b: float) -> float:
    """How far two hues are apart on the circle, 0..0.5."""
    return abs((a - b + 0.5) % 1 - 0.5)


def shift_hue(pixels: Picture, by: float) -> Picture:
    """Turns the hue of the saturated pixels by a part of the circle; greys and outlines stay."""
    hsv = _hsv(pixels).copy()
    coloured = (hsv[..., 1] > 89) & (hsv[..., 2] > 76)
    hue = hsv[..., 0].astype(np.int32)
    hsv[..., 0] = (np.where(coloured, hue + round(by * 255), hue) % 256).astype(np.uint8)
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


def twins(pictures: Sequence[Picture]) -> list[set[int]]:
    """For each picture the indices of the others that are nearly the same, or nearly its mirror image."""
    small = thumbnails(pictures)
    return [set(np.flatnonzero(nearly(small, picture)).tolist()) - {index} for index, picture in enumerate(small)]


def nearly(small: Thumbnails, one: Thumbnails) -> NDArray[np.bool_]:
    """Which of the thumbnails are nearly the same as one, or as its mirror image."""
    one_way, mirrored = (np.sqrt(np.square(small - form).mean(axis=(1, 2, 3))) for form in (one, one[:, ::-1]))
    return np.asarray(np.minimum(one_way, mirrored) < _SAME)


def thumbnails(pictures: Sequence[Picture]) -> Thumbnails:
    """Pictures at 16x16 pixels, stacked."""
    small = [Image.fromarray(pixels).resize((16, 16), Image.Resampling.BOX) for pixels in pictures]
    return (
        np.stack([np.asarray(image, np.float32) for image in small]) if small else np.zeros((0, 16, 16, 3), np.float32)
    )


def _coloured(hsv: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray((hsv[..., 1] > 0.35) & (hsv[..., 2] > 0.3))


def _hsv(pixels: Picture) -> Picture:
    return np.asarray(Image.fromarray(pixels).convert("HSV"))
