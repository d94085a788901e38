"""Image files of strangers to pixels: upright, on white, and never larger than a limit."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

MAX_PIXELS = 64 * 1024 * 1024
"""Pixels of a picture at most: beyond it a small file may fill the memory (a decompression bomb)."""
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def decode_image(data: bytes) -> Image.Image:
    """An RGB picture: turned as its EXIF says, transparent parts on white.

    Raises:
        ValueError: no picture, a damaged one, or one of more than `MAX_PIXELS` pixels; the message says which.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(data), formats=_FORMATS)
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(f"{opened.width}x{opened.height} pixels are more than {MAX_PIXELS}")
        picture: Image.Image = ImageOps.exif_transpose(opened)
        if picture.mode in {"RGBA", "LA", "PA"} or "transparency" in picture.info:
            layer = picture.convert("RGBA")
            white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
            white.alpha_composite(layer)
            picture = white
        return picture.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a whole {', '.join(_FORMATS)} picture ({type(error).__name__})") from error


def square(picture: Image.Image, side: int) -> NDArray[np.uint8]:
    """The square in a picture's middle as (side, side, 3) uint8, resampled (Lanczos) where it has another size."""
    shorter = min(picture.size)
    left, top = (picture.width - shorter) // 2, (picture.height - shorter) // 2
    picture = picture.crop((left, top, left + shorter, top + shorter))
    if shorter != side:
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    return np.array(picture)
