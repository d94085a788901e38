"""Rows with a picture, and a mask, through synthesize: what is outside the mask stays; bad rows are rejects."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from actors.errors import UserError
from actors.model_uri import resolve_model
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.render_row import render_row
from pipeline.storage import Store
from pipeline.synthesize import synthesize
from tests import models, pipelines
from tests.security.bombs import huge_png

SIDE = 32


def file_of(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


PICTURE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
HOLE = np.zeros((SIDE, SIDE), np.uint8)
HOLE[8:20, 4:12] = 255


def run(model: Path, rows: list[dict], output: Path, tmp_path: Path, more: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Synthesizes a table, and returns the pixels of each image by its prompt's id."""
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    told = [f"prompts.uri={tmp_path}/rows.parquet", f"generate.model={model}", f"output.uri={output}",
            f"prompts.image_uris=[{tmp_path}/pictures/]", "limits.max_reject_fraction=1"]  # fmt: skip
    synthesize(load_config(SynthesizeConfig, None, ["expand=null", *told, *more]), quiet=True)
    made = pq.read_table(output / "data").to_pylist()
    return {row["prompt_id"]: np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in made}


def rejects(output: Path) -> dict[str, str]:
    return {row["id"]: row["reject_reason"] for row in pq.read_table(output / "rejects").to_pylist()}


def test_a_hole_is_filled_and_nothing_else_is_touched(tmp_path, local_ray):
    (tmp_path / "pictures").mkdir()
    for name in ("pictures/one.png", "other.png"):
        (tmp_path / name).write_bytes(file_of(PICTURE))
    picture, mask = {"bytes": file_of(PICTURE), "path": None}, {"bytes": file_of(HOLE), "path": None}
    by_name, elsewhere, gone = (
        {"bytes": None, "path": f"{tmp_path}/pictures/{name}"} for name in ("one.png", "../other.png", "gone.png")
    )
    rows = [
        {"id": "inside", "prompt": "a cat", "image": picture, "mask": mask, "tag": "kept"},
        {"id": "named", "prompt": "a cat", "image": by_name, "mask": mask, "tag": "kept"},
        {"id": "no-mask", "prompt": "a cat", "image": picture, "mask": None, "tag": ""},
        {"id": "no-picture", "prompt": "a cat", "image": None, "mask": mask, "tag": ""},
        {"id": "broken", "prompt": "a cat", "image": {"bytes": b"none", "path": None}, "mask": mask, "tag": ""},
        {"id": "gone", "prompt": "a cat", "image": gone, "mask": mask, "tag": ""},
        {"id": "elsewhere", "prompt": "a cat", "image": elsewhere, "mask": mask, "tag": ""},
        {"id": "huge", "prompt": "a cat", "image": {"bytes": huge_png(), "path": None}, "mask": mask, "tag": ""},
    ]
    model = models.save_gan(tmp_path / "gan", "inpainting")
    made = run(model, rows, tmp_path / "set", tmp_path)
    assert made.keys() == {"inside", "named"}
    for pixels in made.values():
        assert (pixels[HOLE == 0] == PICTURE[HOLE == 0]).all()
        assert (pixels[HOLE > 0] != PICTURE[HOLE > 0]).any()
    assert rejects(tmp_path / "set") == {
        "no-mask": "no_mask", "no-picture": "no_picture", "broken": "bad_picture", "gone": "picture_unreadable",
        "elsewhere": "picture_refused", "huge": "bad_picture",
    }  # fmt: skip
    store = Store(str(tmp_path / "set"))
    assert pq.read_table(tmp_path / "set/data")["tag"].to_pylist() == ["kept", "kept"]
    with pytest.raises(UserError, match="was made from a picture"):
        render_row(store, "inside-v0-0")


def test_a_controlnet_and_a_lora_are_part_of_the_run_that_follows_a_rows_picture(tmp_path, local_ray):
    torch.manual_seed(0)
    model, net = pipelines.stable_diffusion(tmp_path / "sd"), pipelines.controlnet(tmp_path / "net")
    lora = pipelines.lora(tmp_path / "lora", model)
    rows = [{"id": "a", "prompt": "a cat", "image": file_of(PICTURE)}, {"id": "b", "prompt": "a cat", "image": None}]
    output = tmp_path / "set"
    more = ["generate.backend=diffusers", f"generate.diffusers.controlnet={net}", "generate.diffusers.steps=2",
            "generate.diffusers.guidance=0", f"generate.diffusers.loras=[{lora}]"]  # fmt: skip
    made = run(model, rows, output, tmp_path, more)
    assert {name: pixels.shape for name, pixels in made.items()} == {"a": (SIDE, SIDE, 3)}
    assert rejects(output) == {"b": "no_picture"}
    record = json.loads((output / "_run/run.json").read_text())
    hashes, card = record["identity"]["models"], (output / "README.md").read_text().replace("`", "")
    assert hashes["generate_controlnet"] == resolve_model(str(net)).sha256
    assert hashes["generate_lora_00"] == resolve_model(str(lora), adapter=True).sha256
    assert f"| its ControlNet | net | {hashes['generate_controlnet']}" in card
    assert f"| its adapter | lora | {hashes['generate_lora_00']}" in card
    with pytest.raises(UserError, match="was made from a picture"):
        render_row(Store(str(output)), "a-v0-0")
    torch.manual_seed(1)
    pipelines.controlnet(tmp_path / "net")
    with pytest.raises(UserError, match=r"belongs to another run: models.generate_controlnet is"):
        run(model, rows, output, tmp_path, more)


def test_a_damaged_picture_needs_no_mask(tmp_path, local_ray):
    large = np.kron(PICTURE, np.ones((2, 2, 1), np.uint8))
    rows = [
        {"id": "a", "prompt": "a cat", "image": file_of(PICTURE)},
        {"id": "b", "prompt": "x", "image": file_of(large)},
    ]
    made = run(models.save_gan(tmp_path / "gan", "restoration"), rows, tmp_path / "set", tmp_path)
    assert {name: pixels.shape for name, pixels in made.items()} == {"a": (SIDE, SIDE, 3), "b": (SIDE, SIDE, 3)}


def test_a_table_without_pictures_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(UserError, match="has no column 'image', and generate"):
        run(models.save_gan(tmp_path / "gan", "inpainting"), [{"prompt": "a cat"}], tmp_path / "set", tmp_path)
    rows = [{"prompt": "a cat", "image": file_of(PICTURE), "mask": 1.0}]
    with pytest.raises(UserError, match=r"column 'mask' .* must be an image"):
        run(models.save_gan(tmp_path / "gan2", "inpainting"), rows, tmp_path / "set", tmp_path)
