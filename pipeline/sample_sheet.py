"""A sheet of fixed captions with a few pictures each: the same seeds each time, so that two sheets can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from actors.gan_model import GanModel
from actors.images import to_pixels
from actors.seeds import derive_seed, image_generator

SHEET = [
    "cat", "dog", "red heart", "blue heart", "smiling face", "crying face", "pizza", "red apple", "green book", "a car",
    "house", "tree", "flower", "sun", "fish", "bird", "robot", "ghost", "banana", "flag of Japan", "woman teacher",
    "一只猫", "红心", "火箭",
]  # fmt: skip
_LABEL = 14
_FONT = Path(__file__).with_name("fonts") / "wqy-microhei.woff2"
"""Latin and Chinese letters, of the package: a sheet looks the same on every machine."""


@torch.inference_mode()
def draw_sheet(model: GanModel, captions: Sequence[str], pictures: int = 4, columns: int = 4) -> Image.Image:
    """Each caption above its pictures."""
    made = [picture_row(model, caption, pictures) for caption in captions]
    return lay_out(captions, made, columns)


@torch.inference_mode()
def picture_row(model: GanModel, caption: str, pictures: int) -> Tensor:
    """Pictures (k, 3, r, r) of one caption, on the CPU."""
    config, device = model.generator.config, model.text_encoder.device
    seeds = [derive_seed(0, "sheet", number) for number in range(pictures)]
    noise = torch.cat([torch.randn(1, config.noise_dim, generator=image_generator(seed)) for seed in seeds])
    words = model.embed([caption]).expand(pictures, -1)
    made: Tensor = model.generator(noise.to(device), words)
    return made.cpu()


def lay_out(captions: Sequence[str], rows: Sequence[Tensor], columns: int) -> Image.Image:
    """Rows of pictures (k, 3, r, r), each under its caption."""
    pictures, side = rows[0].shape[0], rows[0].shape[-1]
    width, height = pictures * side + 8, side + _LABEL + 4
    sheet = Image.new("RGB", (columns * width, -(-len(rows) // columns) * height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.truetype(_FONT, 11)
    for number, (caption, row) in enumerate(zip(captions, rows, strict=True)):
        left, top = (number % columns) * width, (number // columns) * height
        # Captions of users' tables have line breaks, which cannot be measured, and some are essays.
        label = " ".join(caption.split())[: 2 * width]
        while len(label) > 4 and pen.textlength(label, font=font) > width - 4:
            label = label[:-2].rstrip("…") + "…"
        pen.text((left + 2, top), label, fill="black", font=font)
        for place, pixels in enumerate(to_pixels(row)):
            sheet.paste(Image.fromarray(pixels), (left + place * side, top + _LABEL))
    return sheet
