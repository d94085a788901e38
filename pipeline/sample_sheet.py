"""A sheet of fixed captions with a few pictures each: the same seeds each time, so that two sheets can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from actors.gan_model import GanModel
from actors.images import to_pixels
from actors.seeds import derive_seed, image_generator

SHEET = [
    "cat", "dog", "red heart", "blue heart", "smiling face", "crying face", "pizza", "red apple", "green book", "a car",
    "house", "tree", "flower", "sun", "fish", "bird", "robot", "ghost", "banana", "flag of Japan", "woman teacher",
    "一只猫", "红心", "火箭",
]  # fmt: skip
_LABEL = 14


@torch.inference_mode()
def draw_sheet(model: GanModel, captions: Sequence[str], target: Path, pictures: int = 4, columns: int = 4) -> None:
    """Writes a PNG: each caption above its pictures. Chinese captions need a font that has them, else boxes show."""
    side = model.generator.config.resolution
    width, height = pictures * side + 8, side + _LABEL + 4
    rows = -(-len(captions) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    pen = ImageDraw.Draw(sheet)
    font = _font()
    for number, caption in enumerate(captions):
        left, top = (number % columns) * width, (number // columns) * height
        pen.text((left + 2, top), caption, fill="black", font=font)
        noise = torch.cat(
            [
                torch.randn(1, model.generator.config.noise_dim, generator=image_generator(derive_seed(0, "sheet", k)))
                for k in range(pictures)
            ]
        )
        words = model.embed([caption]).expand(pictures, -1)
        for k, pixels in enumerate(to_pixels(model.generator(noise, words))):
            sheet.paste(Image.fromarray(pixels), (left + k * side, top + _LABEL))
    sheet.save(target, optimize=True)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in ("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc"):
        try:
            return ImageFont.truetype(name, 11)
        except OSError:
            continue
    return ImageFont.load_default(11)
