"""From a model's tensor to a finished file: floats to pixels, pixels to PNG, JPEG or WebP with the marks inside."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import Image, PngImagePlugin

from actors.content_credentials import ImageSigner
from actors.contracts import EncodedImage, Pixels
from actors.errors import RowError
from actors.marks import mark, produce_id

if TYPE_CHECKING:
    import torch

Encoding = Literal["png", "jpeg", "webp"]

MEDIA_TYPES: Mapping[Encoding, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


class SomeRowsError(RowError):
    """Some images of one micro-batch cannot be made and the others are fine: nobody has to be rendered twice.

    ``results`` has one entry for each image, in order: its pixels, or why it failed. ``reason`` and ``detail`` are
    those of the first that failed, so that whoever renders one image at a time sees an ordinary `RowError`.
    """

    def __init__(self, results: Sequence[Pixels | RowError]) -> None:
        first = next(result for result in results if isinstance(result, RowError))
        super().__init__(first.reason, first.detail)
        self.results = list(results)


def to_pixels(batch: torch.Tensor) -> list[Pixels]:
    """Turns a model's output into images: -1 is 0, 1 is 255, what lies outside is clipped, the rest rounded to nearest.

    Args:
        batch: shape (images, 3, height, width), any floating dtype and device, values nominally in [-1, 1].

    Returns:
        One array of shape (height, width, 3), uint8, for each image; none shares memory with another.

    Raises:
        SomeRowsError: a `RowError` with reason ``"not_finite"``: an image holds NaN or Inf, which a cast to uint8
            would have turned into plausible noise. Its ``results`` hold the images that are fine.
        ValueError: ``batch`` has another shape or an integer dtype.
    """
    if batch.ndim != 4 or batch.shape[1] != 3 or not batch.is_floating_point():
        raise ValueError(f"expected a float tensor (images, 3, height, width), got {batch.dtype} {tuple(batch.shape)}")
    finite = batch.isfinite().flatten(1).all(dim=1).tolist()
    # float32 first: bfloat16 has 8 bits of precision, so scaling in it would already round to the wrong level. NaN is
    # cleared because its cast to an integer is undefined; those images are dropped below.
    scaled = batch.detach().float().nan_to_num(nan=0.0).mul(127.5).add(127.5).clamp(0.0, 255.0).round()
    images = scaled.byte().permute(0, 2, 3, 1).cpu().numpy()
    if all(finite):
        return [np.array(image, order="C") for image in images]
    raise SomeRowsError(
        [
            np.array(image, order="C")
            if is_finite
            else RowError("not_finite", "the model made NaN or infinite pixels; another dtype may help")
            for image, is_finite in zip(images, finite, strict=True)
        ]
    )


class ImageEncoder:
    """Writes pixels as image files. Same pixels, id and library versions, same bytes; safe to share between threads.

    Speed decides where size hardly does, because encoding runs beside the renderer (measured on one core):
    PNG at zlib level 4 (0.1 ms at 64x64, about 100 ms at 1024x1024; level 6 is a third slower for 0 to 10% less).
    JPEG keeps full colour resolution from quality 90 on (4:4:4) and halves it below (4:2:0).
    WebP is lossless at quality 100, by its cheaper search (15% smaller than PNG); below, lossy at method 2 of 6.
    """

    def __init__(
        self, encoding: Encoding, quality: int, *, producer: str = "promptmill", signer: ImageSigner | None = None
    ) -> None:
        """Checks the choice once, before any image.

        Args:
            encoding: the file format.
            quality: 1 .. 100 for JPEG and WebP; PNG is always lossless and ignores it.
            producer: who made the images, as the marks say it.
            signer: puts a signed C2PA manifest into each finished file; its bytes are then others every time.

        Raises:
            ValueError: an unknown encoding, or a quality outside 1 .. 100.
        """
        if encoding not in get_args(Encoding):
            raise ValueError(f"unknown image encoding {encoding!r}: choose png, jpeg or webp")
        if not 1 <= quality <= 100:
            raise ValueError(f"image quality is {quality}: choose 1 to 100")
        self.encoding: Encoding = encoding
        self.quality = quality
        self._producer, self._signer = producer, signer

    def encode(self, pixels: Pixels, image_id: str) -> EncodedImage:
        """Encodes one RGB image and puts its marks inside.

        Raises:
            ValueError: ``pixels`` is not a non-empty uint8 array of shape (height, width, 3).
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
            raise ValueError(f"expected uint8 pixels (height, width, 3), got {pixels.dtype} {pixels.shape}")
        file = io.BytesIO()
        packet = mark(image_id, self._producer)
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, self.encoding, **self._options(packet))
        data = file.getvalue()
        if self._signer is not None:
            # Last: the signature covers the marks too.
            data = self._signer.sign(data, MEDIA_TYPES[self.encoding], produce_id(image_id))
        return EncodedImage(data=data, width=pixels.shape[1], height=pixels.shape[0])

    def _options(self, packet: bytes) -> dict[str, Any]:
        if self.encoding == "png":
            chunks = PngImagePlugin.PngInfo()
            chunks.add_itxt("XML:com.adobe.xmp", packet.decode("utf-8"))
            return {"compress_level": 4, "pnginfo": chunks}
        if self.encoding == "jpeg":
            return {"quality": self.quality, "subsampling": "4:4:4" if self.quality >= 90 else "4:2:0", "xmp": packet}
        if self.quality == 100:
            # For lossless WebP `quality` is effort, not fidelity. `exact` is moot without alpha.
            return {"lossless": True, "quality": 50, "method": 2, "xmp": packet}
        return {"quality": self.quality, "method": 2, "xmp": packet}
