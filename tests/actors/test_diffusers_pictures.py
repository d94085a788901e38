"""Rows with pictures through real diffusers pipelines: redrawn, filled, or followed by a ControlNet."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from actors.backend_diffusers import DiffusersBackend
from actors.contracts import ImageJob
from actors.diffusers_pictures import given
from actors.diffusers_settings import DiffusersSettings
from actors.errors import RowError, UserError
from tests import pipelines

pytest.importorskip("diffusers")

CPU = torch.device("cpu")
FAST = DiffusersSettings(steps=4)
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
MASK = np.zeros((40, 50), np.uint8)
MASK[8:20, 8:30] = 255


def png(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def job(seed: int, size: int | None = None, picture: np.ndarray = PICTURE, mask: np.ndarray | None = MASK) -> ImageJob:
    return ImageJob(
        f"id-{seed}", "a cat", None, seed, size, size, png(picture), None if mask is None else png(mask)
    )  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    return {
        "sd": pipelines.stable_diffusion(tmp_path_factory.mktemp("sd")),
        "holes": pipelines.stable_diffusion(tmp_path_factory.mktemp("holes"), channels=9),
        "flux": pipelines.flux(tmp_path_factory.mktemp("flux")),
        "controlnet": pipelines.controlnet(tmp_path_factory.mktemp("controlnet")),
    }


@pytest.mark.parametrize(("name", "own"), [("sd", (50, 40)), ("flux", (48, 40))])
def test_a_picture_is_redrawn_in_its_own_size_or_the_rows(folders, name, own):
    backend = DiffusersBackend(folders[name], CPU, replace(FAST, task="image", strength=0.5))
    jobs = [job(1, mask=None), job(2, mask=None), job(1, 32), job(1, picture=255 - PICTURE)]
    for each in jobs:
        backend.check(each)
    first, other_seed, resized, other_picture = backend.render(jobs)
    assert first.shape == (own[1], own[0], 3)
    assert resized.shape == (32, 32, 3)
    assert not np.array_equal(first, other_seed)
    assert not np.array_equal(first, other_picture)
    assert np.array_equal(backend.render([jobs[0]])[0], first)


def test_strength_is_how_much_is_redrawn(folders):
    little, much = (
        DiffusersBackend(folders["sd"], CPU, replace(FAST, task="image", strength=strength, steps=10))
        for strength in (0.1, 1.0)
    )
    other = replace(job(1), picture=png(255 - PICTURE))
    apart = [
        np.abs(np.subtract(*(backend.render([each])[0].astype(int) for each in (job(1), other)))).mean()
        for backend in (little, much)
    ]
    assert 8 * apart[1] < apart[0], "at 1 the picture is drowned in noise"


@pytest.mark.parametrize("name", ["sd", "holes", "flux"])
@pytest.mark.parametrize("images_per_call", [1, 2])
def test_a_hole_is_filled_and_nothing_else_is_touched(folders, name, images_per_call):
    settings = replace(FAST, task="inpainting", width=48, height=40, images_per_call=images_per_call)
    backend = DiffusersBackend(folders[name], CPU, settings)
    first, second, third = backend.render([job(1), job(2), job(1)])
    seen = given(job(1), 48, 40, 1, masked=True)
    hole = np.asarray(seen.mask) > 0
    assert 0 < hole.sum() < hole.size
    for made in (first, second):
        assert np.array_equal(made[~hole], np.asarray(seen.picture)[~hole])
    assert (first[hole] != np.asarray(seen.picture)[hole]).any()
    assert (first[hole] != second[hole]).any()
    assert np.array_equal(first, third)
    assert np.array_equal(backend.render([job(2)])[0], second)


def test_rows_of_one_call_have_pictures_of_one_size(folders):
    backend = DiffusersBackend(folders["sd"], CPU, replace(FAST, task="image", images_per_call=4))
    small = PICTURE[:32, :32]
    jobs = [job(1), job(1, picture=small), job(2, picture=small), job(2)]
    assert [image.shape[:2] for image in backend.render(jobs)] == [(40, 50), (32, 32), (32, 32), (40, 50)]


def test_a_controlnet_follows_the_picture(folders):
    def made(scale: float, picture: np.ndarray) -> np.ndarray:
        settings = replace(FAST, controlnet="given", controlnet_scale=scale)
        parts = {"generate_controlnet": folders["controlnet"]}
        backend = DiffusersBackend(folders["sd"], CPU, settings, parts=parts)
        backend.check(job(1, picture=picture, mask=None))
        return backend.render([job(1, picture=picture, mask=None)])[0]

    first = made(1.0, PICTURE)
    assert first.shape == (40, 50, 3)
    assert not np.array_equal(first, made(1.0, 255 - PICTURE))
    assert not np.array_equal(first, made(0.5, PICTURE))
    assert np.array_equal(made(0.0, PICTURE), made(0.0, 255 - PICTURE)), "without weight its shape is no matter"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"picture": None}, "no_picture"),
        ({"mask": None}, "no_mask"),
        ({"picture": b"none"}, "bad_picture"),
        ({"mask": b"none"}, "bad_picture"),
        ({"picture": png(PICTURE[:1])}, "bad_size"),
        ({"width": 33}, "bad_size"),
        ({"width": 48, "picture": png(np.zeros((4000, 2, 3), np.uint8))}, "bad_size"),
    ],
)  # fmt: skip
def test_a_row_without_what_it_takes_is_a_reject(folders, changed, reason):
    backend = DiffusersBackend(folders["sd"], CPU, replace(FAST, task="inpainting"))
    with pytest.raises(RowError) as caught:
        backend.check(replace(job(1), **changed))
    assert caught.value.reason == reason


def test_a_picture_is_cut_in_the_middle_and_never_stretched_and_its_mask_with_it():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 25:35] = 255
    mask = np.zeros((10, 30), np.uint8)  # half the size: it lies over the whole picture all the same
    mask[:, 14:16] = 255
    seen = given(job(1, picture=wide, mask=mask), 20, 20, 1, masked=True)
    assert seen.size == (20, 20)
    assert (np.asarray(seen.picture)[:, 6:14] > 200).all()
    assert (np.asarray(seen.picture)[:, :3] < 50).all()
    found = np.asarray(seen.mask)
    assert set(np.unique(found)) == {0, 255}
    assert found[:, 8:12].all()
    assert not found[:, :7].any()
    assert given(job(1, picture=wide), 30, None, 4, masked=False).size == (30, 8)


def test_models_of_another_task_are_refused_in_a_sentence(folders, tmp_path):
    with pytest.raises(UserError, match=r"UNet takes 9 channels.*task=inpainting"):
        DiffusersBackend(folders["holes"], CPU, FAST)
    with pytest.raises(UserError, match="StableDiffusionPipeline has no strength"):
        DiffusersBackend(folders["sd"], CPU, replace(FAST, strength=0.5))
    with pytest.raises(UserError, match=r"is no ControlNet in diffusers' layout.*UNet2DConditionModel"):
        DiffusersBackend(folders["sd"], CPU, FAST, parts={"generate_controlnet": folders["sd"] / "unet"})


def test_a_controlnet_that_lacks_a_tensor_is_refused(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    (file,) = folders["controlnet"].glob("*.safetensors")
    tensors = load_file(file)
    del tensors["conv_in.weight"]
    save_file(tensors, tmp_path / file.name, metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((folders["controlnet"] / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"incomplete: conv_in.weight is missing"):
        DiffusersBackend(folders["sd"], CPU, FAST, parts={"generate_controlnet": tmp_path})
