"""Image files of strangers to pixels: upright, on white, and never larger than a limit."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

MAX_PIXELS = 64 * 1024 * 1024
"""Pixels of a picture at most, where no config says otherwise: a small file may fill the memory (a decompression bomb).
"""
LARGEST = 1 << 28
"""Pixels that a config may allow at most."""
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An RGB picture: turned as its EXIF says, transparent parts on white.

    Raises:
        ValueError: no picture, a damaged one, or one of more than ``max_pixels`` pixels; the message says which.
    """
    opened = _opened(data, max_pixels)
    try:
        picture: Image.Image = ImageOps.exif_transpose(opened)
        if picture.mode in {"RGBA", "LA", "PA"} or "transparency" in picture.info:
            layer = picture.convert("RGBA")
            white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
            white.alpha_composite(layer)
            picture = white
        return picture.convert("RGB")
    except Exception as error:
        raise _none(error) from error


def check_size(data: bytes, max_pixels: int) -> None:
    """Raises `ValueError` for what is no picture or has more pixels than that; only the file's header is read."""
    _opened(data, max_pixels)


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"it has more than {max_pixels} pixels") from error
    except Exception as error:
        raise _none(error) from error
    if opened.width * opened.height > max_pixels:
        raise ValueError(f"{opened.width}x{opened.height} pixels are more than {max_pixels}")
    return opened


def _none(error: Exception) -> ValueError:
    # Pillow's readers raise what they trip over, zlib.error and struct.error among it; a full memory is one of them.
    return ValueError(f"not a whole {', '.join(_FORMATS)} picture ({type(error).__name__})")


def square(picture: Image.Image, side: int) -> NDArray[np.uint8]:
    """The square in a picture's middle as (side, side, 3) uint8, resampled (Lanczos) where it has another size."""
    shorter = min(picture.size)
    left, top = (picture.width - shorter) // 2, (picture.height - shorter) // 2
    picture = picture.crop((left, top, left + shorter, top + shorter))
    if shorter != side:
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    return np.array(picture)
