"""What makes a diffusers pipeline smaller or faster, on real ones: tiles, compilation, quantised weights, few steps."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.backend_diffusers import DiffusersBackend
from actors.contracts import ImageJob
from actors.diffusers_settings import DiffusersSettings
from actors.errors import UserError
from tests import pipelines

pytest.importorskip("diffusers")

CPU = torch.device("cpu")
FAST = DiffusersSettings(steps=2)
with_torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")


def job(seed: int = 1, side: int = 32) -> ImageJob:
    return ImageJob(f"id-{seed}", "a cat", None, seed, side, side)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    return {
        "sd": pipelines.stable_diffusion(tmp_path_factory.mktemp("sd")),
        "flux": pipelines.flux(tmp_path_factory.mktemp("flux")),
    }


def made(folder: Path, side: int = 32, **changed) -> np.ndarray:
    return DiffusersBackend(folder, CPU, replace(FAST, **changed)).render([job(side=side)])[0].astype(int)


def test_tiles_change_large_images_alone_and_slices_none(folders):
    assert np.array_equal(made(folders["sd"]), made(folders["sd"], vae_tiling=True, vae_slicing=True))
    whole, tiled = made(folders["sd"], 64), made(folders["sd"], 64, vae_tiling=True)
    assert whole.shape == tiled.shape
    assert not np.array_equal(whole, tiled)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("sd", {"scheduler": "LCMScheduler"}),
        ("sd", {"scheduler": "EulerDiscreteScheduler", "scheduler_options": {"timestep_spacing": "trailing"}}),
        ("sd", {"scheduler_options": {"timestep_spacing": "trailing"}}),
        ("sd", {"call": {"guidance_rescale": 0.7}}),
        ("sd", {"steps": None, "call": {"timesteps": [900, 400]}, "scheduler": "LCMScheduler"}),
        ("sd", {"scheduler": "TCDScheduler", "call": {"eta": 0.3}}),
        ("flux", {"scheduler_options": {"shift": 3.0}}),
        ("flux", {"scheduler": "FlowMatchLCMScheduler"}),
        ("flux", {"call": {"sigmas": [1.0, 0.3]}}),
    ],
)
def test_schedulers_and_calls_of_few_step_models_reach_the_pipeline(folders, name, changed):
    image = made(folders[name], **changed)
    assert not np.array_equal(image, made(folders[name]))
    assert np.array_equal(image, made(folders[name], **changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scheduler_options": {"timestep_spacin": "x"}}, "has no option 'timestep_spacin': did you mean timestep_sp"),
        ({"call": {"clip_skp": 1}}, "StableDiffusionPipeline has no clip_skp"),
        ({"call": {"prompt": "x"}}, "call sets prompt"),
        ({"call": {"num_inference_steps": 3}}, "call sets num_inference_steps"),
        ({"quantize": "bitsandbytes_4bit"}, "needs bitsandbytes: pip install|needs a GPU"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(folders, changed, message):
    with pytest.raises(UserError, match=message) as caught:
        DiffusersBackend(folders["sd"], CPU, replace(FAST, **changed))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("placement", ["balanced", "offload_models", "offload_layers"])
def test_on_a_cpu_all_placements_are_one(folders, placement):
    assert np.array_equal(made(folders["sd"], placement=placement), made(folders["sd"]))


@pytest.mark.parametrize(("name", "how"), [("flux", "blocks"), ("sd", "whole")])
@pytest.mark.campaign
def test_a_compiled_image_depends_on_its_own_size_alone(folders, name, how):
    """The compiler's kernel of one size must not come of the sizes before it."""
    backend = DiffusersBackend(folders[name], CPU, replace(FAST, compile=how))
    first, _, _, again = backend.render([job(side=32), job(side=48), job(side=40), job(side=32)])
    assert np.array_equal(first, again)
    fresh = DiffusersBackend(folders[name], CPU, replace(FAST, compile=how))
    _, last = fresh.render([job(side=48), job(side=32)])
    assert np.array_equal(first, last)
    assert np.abs(first.astype(int) - made(folders[name])).max() <= 2


@with_torchao
@pytest.mark.parametrize("name", ["sd", "flux"])
def test_weights_are_quantised_while_they_are_loaded(folders, name):
    plain = made(folders[name])
    backend = DiffusersBackend(folders[name], CPU, replace(FAST, quantize="torchao_int8"))
    (image,) = backend.render([job()])
    assert not np.array_equal(plain, image)
    assert np.abs(plain - image).mean() < 8
    part = "text_encoder"
    both = made(folders[name], quantize="torchao_int8", quantize_parts=(part,))
    assert not np.array_equal(both, plain)
    assert not np.array_equal(both, image)
    with pytest.raises(UserError, match="the pipeline has no part 'unets'; it has"):
        made(folders[name], quantize="torchao_int8", quantize_parts=("unets",))


@with_torchao
def test_a_directory_of_quantised_weights_is_loaded_as_it_is(folders, tmp_path):
    from shutil import copytree

    from diffusers import FluxTransformer2DModel, TorchAoConfig
    from torchao.quantization import Int8WeightOnlyConfig

    folder = copytree(folders["flux"], tmp_path / "flux")
    model = FluxTransformer2DModel.from_pretrained(
        folder / "transformer", quantization_config=TorchAoConfig(Int8WeightOnlyConfig()), torch_dtype=torch.float32
    )
    for file in (folder / "transformer").iterdir():
        file.unlink()
    model.save_pretrained(folder / "transformer")
    assert np.array_equal(made(folder), made(folders["flux"], quantize="torchao_int8"))
