"""A captioned image table small enough to learn in seconds: coloured shapes of 16x16 pixels, named in two languages."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageDraw

from actors.image_text import EncoderSizes, build_image_text
from pipeline.caption_tokenizer import as_transformers, train_tokenizer

COLOURS = {"red": ("红", (220, 30, 30)), "green": ("绿", (30, 180, 30)), "blue": ("蓝", (30, 60, 220))}
SHAPES = {"circle": "圆", "square": "方块"}


def picture(colour: str, shape: str, shift: int) -> Image.Image:
    image = Image.new("RGB", (16, 16), "white")
    pen = ImageDraw.Draw(image)
    box = [1 + shift, 1 + shift, 11 + shift, 11 + shift]
    (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=COLOURS[colour][1])
    return image


def save_table(path: Path) -> Path:
    rows = []
    for number in range(96):
        colour, shape = list(COLOURS)[number % 3], list(SHAPES)[number // 3 % 2]
        sink = io.BytesIO()
        picture(colour, shape, number % 4).save(sink, "PNG")
        rows.append(
            {
                "image": {"bytes": sink.getvalue(), "path": f"{number}.png"},
                "caption_en": [f"a {colour} {shape}", f"{colour} {shape}"],
                "caption_zh": COLOURS[colour][0] + SHAPES[shape],
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=40)
    return path


def save_encoder(directory: Path) -> Path:
    """An image-text encoder with random weights and a tokenizer that knows the shapes' words."""
    words = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
    words += [colour + shape for colour, _ in COLOURS.values() for shape in SHAPES.values()]
    torch.manual_seed(0)
    sizes = EncoderSizes(
        resolution=16, patch=4, image_width=48, image_layers=1, text_width=48, text_layers=1, embedding=32
    )
    build_image_text(as_transformers(train_tokenizer(words, 400), 48), sizes).save(directory, torch.float32)
    return directory
