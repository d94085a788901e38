"""promptmill evaluate: any two tables of images in, metrics with intervals out; two evaluations compared."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification

from actors.errors import UserError
from jobs.cli import main
from pipeline.compare import compare
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.evaluate import evaluate
from pipeline.evaluate_config import EvaluateConfig
from pipeline.judged import read_judged
from pipeline.synthesize import synthesize
from tests.models import save_alexnet
from tests.shapes import COLOURS, SHAPES, picture

pytestmark = pytest.mark.usefixtures("local_ray")
CLIP = "(promptmill-clip)"


def png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def save(path: Path, *, shift: int = 0, captions: str = "right", rows: int = 96, group: int = 40, **more: Any) -> Path:
    """Coloured shapes; captions that fit, that are another row's, or none."""
    found = []
    for number in range(rows):
        colour, shape = list(COLOURS)[number % 3], list(SHAPES)[number // 3 % 2]
        told = {"right": f"{colour} {shape}", "wrong": f"{list(COLOURS)[(number + 1) % 3]} {shape}"}
        row = {"id": f"r{number}", "image": {"bytes": png(picture(colour, shape, (number + shift) % 4)), "path": None}}
        found.append(row | ({"caption": told[captions]} if captions != "none" else {}) | more)
    pq.write_table(pa.Table.from_pylist(found), path, row_group_size=group)
    return path


def run(generated: Path, output: Path, *more: str) -> dict[str, Any]:
    told = [f"generated.uri={generated}", f"output.uri={output}", *more]
    return evaluate(load_config(EvaluateConfig, None, told))


def values(document: dict[str, Any]) -> dict[str, float]:
    return {line["name"]: line["value"] for line in document["metrics"]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, local_ray) -> Path:
    """Shapes beside a reference of the same kind."""
    path = tmp_path_factory.mktemp("whole")
    save(path / "made.parquet")
    save(path / "real.parquet", shift=2, captions="none")
    run(path / "made.parquet", path / "out", f"reference.uri={path / 'real.parquet'}")
    return path


def test_every_metric_has_a_value_an_interval_its_n_and_how(whole):
    document = json.loads((whole / "out/metrics.json").read_text())
    found = values(document)
    names = ("similarity", "CLIPScore", "R-precision, 1 of 6", "R-precision, 1 of all", "FID", "FID-infinity", "KID",
             "precision", "recall", "density", "coverage", "near-copies of the reference", "nearest reference",
             "Vendi score", "distance within a prompt", "near-duplicates")  # fmt: skip
    assert {f"{name} {CLIP}" for name in names} <= found.keys()
    assert "FID" not in found
    assert all(np.isfinite(value) for value in found.values())
    for line in document["metrics"]:
        assert line["low"] - 1e-9 <= line["value"] <= line["high"] + 1e-9, line
        assert line["n"] > 0
        assert line["how"]
    may_be = {"precision": (0, 1), "recall": (0, 1), "coverage": (0, 1), "density": (0, np.inf), "FID": (0, np.inf)}
    for line in document["metrics"]:
        least, most = may_be.get(line["name"].removesuffix(f" {CLIP}"), (-np.inf, np.inf))
        assert least <= line["low"] <= line["high"] <= most, line
    assert found[f"nearest reference {CLIP}"] > 0.99
    assert any("biased" in text for text in document["warnings"])
    assert "Lanczos" in document["features"]["resampler"]
    page = (whole / "out/report.html").read_text()
    assert "FID (promptmill-clip)" in page
    assert "default-src 'none'" in page


def test_a_second_evaluation_only_computes(whole, monkeypatch):
    monkeypatch.setattr("pipeline.evaluate.connected", lambda *told: pytest.fail("started Ray"))
    before = json.loads((whole / "out/metrics.json").read_text())
    again = run(whole / "made.parquet", whole / "out", f"reference.uri={whole / 'real.parquet'}")
    assert again["metrics"] == before["metrics"]


def test_any_partition_of_the_rows_gives_the_same(whole, tmp_path):
    save(tmp_path / "made.parquet", group=7)
    cut = values(run(tmp_path / "made.parquet", tmp_path / "out", f"reference.uri={whole / 'real.parquet'}"))
    before = values(json.loads((whole / "out/metrics.json").read_text()))
    assert cut.keys() == before.keys()
    for name, value in before.items():
        if name.startswith(("MS-SSIM", "distance within")):
            continue  # a prompt's images are compared within a fragment
        assert cut[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_pictures_that_do_not_fit_their_words_are_worse_and_compare_says_so(whole, tmp_path, capsys):
    save(tmp_path / "made.parquet", captions="wrong")
    run(tmp_path / "made.parquet", tmp_path / "out", f"reference.uri={whole / 'real.parquet'}")
    differences, remarks = compare(read_judged(str(whole / "out")), read_judged(str(tmp_path / "out")))
    told = {one.name: one.verdict for one in differences}
    # Captions of the two are paired; those of the same pictures do not differ as distributions.
    assert told[f"FID {CLIP}"].startswith("no difference shown at n =")
    assert told[f"R-precision, 1 of all {CLIP}"] == "A is better"
    assert remarks == []
    assert main(["evaluate", "--compare", str(whole / "out"), str(tmp_path / "out")]) == 0
    assert "A is better" in capsys.readouterr().out


def test_an_evaluation_beside_itself_shows_no_difference(whole):
    differences, _ = compare(read_judged(str(whole / "out")), read_judged(str(whole / "out")))
    assert all(one.verdict.startswith("no difference shown at n =") for one in differences)
    assert all(one.difference == 0 for one in differences)


def test_damaged_images_are_counted_and_change_nothing(whole, tmp_path):
    rows = pq.read_table(whole / "made.parquet").to_pylist()
    rows[5:5] = [
        {"id": "broken", "image": {"bytes": b"no picture", "path": None}, "caption": "red circle"},
        {"id": "empty", "image": None, "caption": "red circle"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "made.parquet")
    document = run(tmp_path / "made.parquet", tmp_path / "out", f"reference.uri={whole / 'real.parquet'}")
    before = values(json.loads((whole / "out/metrics.json").read_text()))
    assert document["generated"]["images"] == 96
    assert sum(document["generated"]["skipped"].values()) == 2
    assert sum("left out" in text for text in document["warnings"]) == 2
    for name in (f"Vendi score {CLIP}", f"similarity {CLIP}", f"KID {CLIP}"):
        assert values(document)[name] == pytest.approx(before[name], rel=1e-6)


def test_a_table_whose_pictures_may_not_be_read_is_told_so(tmp_path, local_ray):
    pq.write_table(pa.table({"image": ["/pictures/a.png", "/pictures/b.png"]}), tmp_path / "made.parquet")
    with pytest.raises(UserError, match=r"0 image\(s\) with features.*2 are left out.*generated\.image_uris"):
        run(tmp_path / "made.parquet", tmp_path / "out")


def test_of_mixed_sizes_broken_fragments_and_no_words_the_rest_is_measured(tmp_path):
    images = [Image.new("RGB", (8 + 9 * n, 30), (20 * n, 90, 30)) for n in range(6)]
    rows = [{"image": {"bytes": png(image), "path": None}} for image in images]
    broken = [{"image": {"bytes": b"no picture", "path": None}}] * 6
    pq.write_table(pa.Table.from_pylist(broken + rows), tmp_path / "made.parquet", row_group_size=6)
    document = run(tmp_path / "made.parquet", tmp_path / "out")
    assert document["generated"]["images"] == 6
    assert sum(document["generated"]["skipped"].values()) == 6
    assert np.isfinite(values(document)[f"Vendi score {CLIP}"])
    assert not [name for name in values(document) if "precision" in name or "similarity" in name]
    assert any("no column of words" in text for text in document["warnings"])


def test_paired_metrics_compare_rows_of_the_same_id(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    truth = [rng.integers(40, 200, (64, 64, 3), dtype=np.uint8) for _ in range(4)]
    tables = {"truth": truth[::-1], "same": truth, "off": [one + np.uint8(10) for one in truth]}
    for name, images in tables.items():
        ids = range(4)[::-1] if name == "truth" else range(4)
        rows = [
            {"id": f"r{own}", "image": {"bytes": png(Image.fromarray(image)), "path": None}}
            for own, image in zip(ids, images, strict=True)
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    told = [f"reference.uri={tmp_path / 'truth.parquet'}", "measures.paired=true"]
    save_alexnet(tmp_path / "alexnet.safetensors")
    told += [f"measures.lpips={tmp_path / 'alexnet.safetensors'}"]
    same = values(run(tmp_path / "same.parquet", tmp_path / "out-same", *told))
    assert same["PSNR, dB"] == 100
    assert same["SSIM"] == pytest.approx(1)
    assert same["LPIPS (alexnet)"] == 0
    off = values(run(tmp_path / "off.parquet", tmp_path / "out-off", *told))
    assert off["PSNR, dB"] == pytest.approx(20 * np.log10(255 / 10))
    assert off["MS-SSIM"] < 1
    assert off["LPIPS (alexnet)"] > 0
    strangers = [row | {"id": f"x{row['id']}"} for row in pq.read_table(tmp_path / "same.parquet").to_pylist()]
    pq.write_table(pa.Table.from_pylist(strangers), tmp_path / "other.parquet")
    monkeypatch.setattr("pipeline.evaluate.connected", lambda *told: pytest.fail("started Ray"))
    with pytest.raises(UserError, match="has the id of one in"):
        run(tmp_path / "other.parquet", tmp_path / "out-other", *told)


def test_a_vision_model_of_the_users_gives_named_features_and_the_inception_score(whole, tmp_path):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        num_labels=5,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path / "my-vit")
    told = [f"reference.uri={whole / 'real.parquet'}", f"features.model={tmp_path / 'my-vit'}"]
    found = values(run(whole / "made.parquet", tmp_path / "out", *told))
    assert 1 <= found["Inception Score (my-vit)"] <= 5
    assert "FID (my-vit)" in found
    assert not [name for name in found if name.startswith("similarity")]
    with pytest.raises(UserError, match=r"same features\.model"):
        compare(read_judged(str(whole / "out")), read_judged(str(tmp_path / "out")))


class _Inception(torch.nn.Module):
    """The interface of FID's TorchScript file."""

    def forward(self, images, return_features: bool = False, no_output_bias: bool = False):
        pooled = torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)
        return pooled if return_features else pooled.softmax(dim=1)


def test_torchscript_needs_the_users_word(whole, tmp_path):
    torch.jit.script(_Inception()).save(str(tmp_path / "inception-2015-12-05.pt"))
    told = [f"features.model={tmp_path / 'inception-2015-12-05.pt'}"]
    with pytest.raises(UserError, match="allow_unsafe_models"):
        run(whole / "made.parquet", tmp_path / "out", *told)
    found = values(run(whole / "made.parquet", tmp_path / "out", *told, "allow_unsafe_models=true"))
    assert found["Inception Score (inception-v3)"] >= 1


def test_an_output_keeps_its_evaluation_and_its_report_shows_it(tiny_gan, tmp_path):
    prompts = [{"prompt": text} for text in ("a red heart", "一只猫在沙滩上玩耍", "<b>bold</b>", "a tree", "a fish")]
    pq.write_table(pa.Table.from_pylist(prompts), tmp_path / "prompts.parquet")
    told = [f"prompts.uri={tmp_path / 'prompts.parquet'}", f"output.uri={tmp_path / 'set'}", "expand=null",
            f"generate.model={tiny_gan}", "generate.images=3", "shards.rows=2"]  # fmt: skip
    synthesize(load_config(SynthesizeConfig, None, told), quiet=True)
    document = evaluate(
        load_config(
            EvaluateConfig, None, [f"generated.uri={tmp_path / 'set'}", f"output.tensorboard={tmp_path / 'tb'}"]
        )
    )
    assert document["generated"]["images"] == 15
    assert "distance within a prompt (promptmill-clip)" in values(document)
    assert "similarity (promptmill-clip)" in (tmp_path / "set/report.html").read_text()
    assert list((tmp_path / "tb").glob("events.*"))
    # What was made and committed is as it was: the dataset does not hold its own evaluation.
    assert synthesize(load_config(SynthesizeConfig, None, told), quiet=True).made_shards == 0
    assert pq.read_table(tmp_path / "set/data").num_rows == 15


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ([], "generated.uri is not set"),
        (["generated.uri={made}"], "output.uri is not set and .* is no promptmill output"),
        (["generated.uri={made}", "generated.text=words"], "generated: .* has no column 'words'"),
        (["generated.uri={made}", "output.uri={out}", "measures.paired=true"], "measures.paired needs reference.uri"),
        (["generated.uri={made}", "output.uri={out}", "features.model={out}"], "the model .* does not exist"),
        (["generated.uri={one}", "output.uri={out}"], r"generated has 1 image\(s\) with features"),
    ],
)
def test_mistakes_are_one_sentence(told, said, tmp_path):
    save(tmp_path / "made.parquet", rows=8)
    save(tmp_path / "one.parquet", rows=1)
    places = {"made": tmp_path / "made.parquet", "one": tmp_path / "one.parquet", "out": tmp_path / "out"}
    with pytest.raises(UserError, match=said):
        evaluate(load_config(EvaluateConfig, None, [text.format(**places) for text in told]))


def test_there_is_nothing_to_compare_without_an_evaluation(tmp_path):
    with pytest.raises(UserError, match="holds no evaluation"):
        read_judged(str(tmp_path))
