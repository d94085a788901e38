"""LoRA adapters on real diffusers pipelines: scaled, fused, several at once; refused where they are another model's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.backend_diffusers import DiffusersBackend
from actors.contracts import ImageJob
from actors.diffusers_settings import DiffusersSettings
from actors.errors import UserError
from actors.model_uri import resolve_model
from tests import pipelines

pytest.importorskip("diffusers")
pytest.importorskip("peft")

CPU = torch.device("cpu")
FAST = DiffusersSettings(steps=2)
JOB = ImageJob("id", "a cat", None, 1, 32, 32)
FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    models = {
        "sd": pipelines.stable_diffusion(tmp_path_factory.mktemp("sd")),
        "flux": pipelines.flux(tmp_path_factory.mktemp("flux")),
    }
    loras = {f"{name} lora": pipelines.lora(tmp_path_factory.mktemp("lora"), model) for name, model in models.items()}
    return models | loras | {"other": pipelines.lora(tmp_path_factory.mktemp("lora"), models["sd"], seed=1)}


def made(model: Path, loras: list[Path], **changed) -> np.ndarray:
    settings = replace(FAST, loras=tuple(map(str, loras)), **changed)
    parts = {name: resolve_model(uri, adapter=True).path for name, uri in settings.parts().items()}
    return DiffusersBackend(model, CPU, settings, parts=parts).render([JOB])[0]


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_an_adapter_changes_the_image_as_much_as_it_is_told_to(folders, name):
    model, lora = folders[name], folders[f"{name} lora"]
    plain, whole = made(model, []), made(model, [lora])
    assert not np.array_equal(plain, whole)
    assert np.array_equal(made(model, [lora / FILE]), whole), "a file is as good as its directory"
    assert np.array_equal(made(model, [lora], lora_scales=(0.0,)), plain)
    assert not np.array_equal(made(model, [lora], lora_scales=(0.5,)), whole)
    fused = made(model, [lora], fuse_loras=True).astype(int)
    assert np.abs(fused - whole).max() <= 1


def test_several_adapters_add_up_in_any_order(folders):
    both = [folders["sd lora"], folders["other"]]
    together = made(folders["sd"], both, lora_scales=(1.0, 0.3))
    assert not np.array_equal(together, made(folders["sd"], both[:1]))
    turned = made(folders["sd"], both[::-1], lora_scales=(0.3, 1.0)).astype(int)
    assert np.abs(turned - together).max() <= 1
    fused = made(folders["sd"], both, lora_scales=(1.0, 0.3), fuse_loras=True).astype(int)
    assert np.abs(fused - together).max() <= 1


def test_an_adapter_of_another_model_is_refused_rather_than_left_out(folders, tmp_path):
    with pytest.raises(UserError, match="is a LoRA of another model"):
        made(folders["flux"], [folders["sd lora"]])
    weights = load_file(folders["sd lora"] / FILE)
    assert len(weights) > 2
    stray = {key.replace("attn1", "attn7"): weight for key, weight in weights.items()}
    save_file(stray, tmp_path / FILE)
    with pytest.raises(UserError, match=r"cannot be loaded as a LoRA|is a LoRA of another model") as caught:
        made(folders["sd"], [tmp_path])
    assert "\n" not in str(caught.value)


def test_what_is_no_adapter_is_one_clear_error(folders, tmp_path):
    with pytest.raises(UserError, match="has no weights"):
        made(folders["sd"], [tmp_path])
    (tmp_path / "pytorch_lora_weights.bin").write_bytes(b"no pickle is read")
    with pytest.raises(UserError, match="pickle"):
        made(folders["sd"], [tmp_path])
    (tmp_path / "pytorch_lora_weights.bin").unlink()
    weights = load_file(folders["sd lora"] / FILE)
    for name in ("one.safetensors", "two.safetensors"):
        save_file(weights, tmp_path / name)
    with pytest.raises(UserError, match=r"several LoRAs \(one.safetensors, two.safetensors\): name one file"):
        made(folders["sd"], [tmp_path])
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(UserError, match="is no LoRA"):
        made(folders["sd"], [tmp_path])


def test_without_peft_the_extra_is_named(folders):
    code = (
        "import importlib.metadata as metadata, importlib.util as util\n"
        "found = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'peft' else found(name, *more)\n"
        "from tests.actors.test_diffusers_lora import made, Path, UserError\n"
        "try:\n"
        f"    made(Path({str(folders['sd'])!r}), [Path({str(folders['sd lora'])!r})])\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "LoRA needs peft, which is not installed: pip install promptmill[diffusers]\n", done.stderr
