"""Floats to pixels and pixels to files: nothing implausible gets through, same pixels give same bytes."""

import io
import time

import numpy as np
import pytest
import torch
from PIL import Image

from actors.errors import RowError
from actors.images import MEDIA_TYPES, ImageEncoder, SomeRowsError, to_pixels
from actors.marks import read_marks


def picture(width: int = 40, height: int = 24) -> np.ndarray:
    """A gradient with noise: neither flat nor incompressible."""
    rows, columns = np.mgrid[0:height, 0:width]
    base = np.stack([rows * 200 // height, columns * 200 // width, (rows + columns) % 200], axis=-1)
    return (base + np.random.default_rng(0).integers(0, 40, base.shape)).astype(np.uint8)


def decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_the_ends_of_the_range_and_the_rounding():
    levels = torch.tensor([-1.0, 1.0, 0.0, -7.0, 7.0, (100.4 - 127.5) / 127.5, (100.6 - 127.5) / 127.5])
    (image,) = to_pixels(levels.reshape(1, 1, 1, 7).expand(1, 3, 1, 7))
    assert image.shape == (1, 7, 3)
    assert image.dtype == np.uint8
    assert image[0, :, 0].tolist() == [0, 255, 128, 0, 255, 100, 101]


def test_channels_rows_and_columns_keep_their_places():
    batch = torch.full((2, 3, 4, 5), -1.0)
    batch[1, 2, 3, 4] = 1.0
    images = to_pixels(batch)
    assert images[1][3, 4].tolist() == [0, 0, 255]
    assert images[1].sum() == 255
    assert images[0].sum() == 0
    assert images[0].base is None  # holding one image must not keep the whole batch in memory


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_image_that_is_not_finite_leaves_the_others_as_they_are(bad, dtype):
    batch = torch.linspace(-1, 1, 3 * 3 * 4 * 4).reshape(3, 3, 4, 4).to(dtype)
    whole = to_pixels(batch)
    batch[1, 0, 0, 0] = bad
    with pytest.raises(SomeRowsError) as caught:
        to_pixels(batch)
    first, second, third = caught.value.results
    assert np.array_equal(first, whole[0])
    assert np.array_equal(third, whole[2])
    assert isinstance(second, RowError)
    assert caught.value.reason == second.reason == "not_finite"


@pytest.mark.parametrize("batch", [torch.zeros(3, 4, 4), torch.zeros(1, 4, 4, 4), torch.zeros(1, 3, 4, 4).byte()])
def test_a_tensor_of_another_kind_is_refused(batch):
    with pytest.raises(ValueError, match="expected a float tensor"):
        to_pixels(batch)


@pytest.mark.parametrize("encoding", ["png", "jpeg", "webp"])
def test_every_encoding_carries_the_marks_and_the_same_bytes_each_time(encoding):
    encoder = ImageEncoder(encoding, 90)
    image = encoder.encode(picture(), "a<&>\x00猫")
    assert (image.width, image.height) == (40, 24)
    assert image.data == ImageEncoder(encoding, 90).encode(picture(), "a<&>\x00猫").data
    assert image.data != encoder.encode(picture(), "another").data
    marks = read_marks(image.data)
    assert marks.image_id == "a<&>\x00猫"
    assert marks.synthetic
    opened = Image.open(io.BytesIO(image.data))
    assert opened.get_format_mimetype() == MEDIA_TYPES[encoding]
    assert opened.size == (40, 24)
    assert np.abs(decode(image.data).astype(int) - picture()).mean() < 12


@pytest.mark.parametrize(("encoding", "quality"), [("png", 1), ("png", 90), ("webp", 100)])
def test_lossless_is_lossless(encoding, quality):
    assert np.array_equal(decode(ImageEncoder(encoding, quality).encode(picture(), "a").data), picture())


@pytest.mark.parametrize("encoding", ["jpeg", "webp"])
def test_quality_costs_bytes_and_buys_fidelity(encoding):
    low, high = (ImageEncoder(encoding, quality).encode(picture(200, 200), "a").data for quality in (40, 95))
    assert len(low) < len(high)

    def error(data: bytes) -> float:
        return float(np.abs(decode(data).astype(int) - picture(200, 200)).mean())

    assert error(low) > error(high)


def test_a_view_that_is_not_contiguous_is_encoded_as_it_looks():
    flipped = picture()[:, ::-1]
    assert np.array_equal(decode(ImageEncoder("png", 90).encode(flipped, "a").data), flipped)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
)
def test_what_is_not_an_rgb_image_is_refused(pixels):
    with pytest.raises(ValueError, match="expected uint8 pixels"):
        ImageEncoder("png", 90).encode(pixels, "a")


@pytest.mark.parametrize(("encoding", "quality"), [("gif", 90), ("PNG", 90), ("jpeg", 0), ("webp", 101)])
def test_an_unknown_choice_is_refused_before_any_image(encoding, quality):
    with pytest.raises(ValueError, match=r"encoding|quality"):
        ImageEncoder(encoding, quality)


def test_a_png_of_a_small_image_takes_a_fraction_of_what_the_best_compression_does():
    pixels = np.asarray(Image.fromarray(picture()).resize((512, 512)))

    def seconds(save) -> float:
        start = time.perf_counter()
        save()
        return time.perf_counter() - start

    ours = min(seconds(lambda: ImageEncoder("png", 90).encode(pixels, "a")) for _ in range(5))
    best = min(seconds(lambda: Image.fromarray(pixels).save(io.BytesIO(), "png", compress_level=9)) for _ in range(5))
    assert ours < best
