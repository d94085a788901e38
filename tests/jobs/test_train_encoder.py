"""train-encoder on Ray Train: it learns, resumes exactly, does the same with two workers; its model loads anywhere."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
import torch
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPProcessor

from actors.errors import UserError
from pipeline.config_file import load_config
from pipeline.encoder_config import TrainEncoderConfig
from pipeline.train_encoder import train_encoder
from tests.jobs.test_kill import kill_when
from tests.shapes import COLOURS, SHAPES, picture, save_table

TINY = [
    "networks.resolution=16", "networks.patch=4", "networks.image_width=48", "networks.image_layers=1",
    "networks.text_width=48", "networks.text_layers=1", "networks.embedding=32", "networks.vocabulary=400",
    "schedule.batch=32", "schedule.rate=0.003", "cadence.log=10",
]  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return save_table(tmp_path_factory.mktemp("table") / "shapes.parquet")


def run(table: Path, output: Path, *more: str, fresh: bool = False) -> dict[str, torch.Tensor]:
    told = [f"data.uri={table}", f"output.uri={output}", *TINY, *more]
    train_encoder(load_config(TrainEncoderConfig, None, told), fresh=fresh, address=None, quiet=True, debug=False)
    last = max(output.glob("checkpoints/contrast-*"))
    return load_file(last / "encoder.safetensors")


@pytest.fixture(scope="module")
def calm(table, local_ray, tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """An undisturbed run of 120 steps."""
    output = tmp_path_factory.mktemp("calm")
    return output, run(table, output, "schedule.steps=120", "cadence.checkpoint=40")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first) and first.keys() == second.keys()


def test_the_model_loads_in_transformers_and_tells_pictures_apart(calm):
    model = CLIPModel.from_pretrained(calm[0] / "model").eval()
    processor = CLIPProcessor.from_pretrained(calm[0] / "model")
    asked = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    for words in ([f"a {c} {s}" for c, s in asked], [COLOURS[c][0] + SHAPES[s] for c, s in asked]):
        inputs = processor(text=words, images=[picture(c, s, 2) for c, s in asked], padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = model.float()(**inputs).logits_per_image
        assert logits.argmax(dim=1).tolist() == list(range(len(asked)))


def test_the_log_has_a_line_for_each_stretch_and_the_loss_falls(calm):
    lines = [json.loads(line) for line in (calm[0] / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(10, 121, 10))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["r_precision"] > 0.9
    assert lines[-1]["recall_5"] >= lines[-1]["recall_1"] > 0.9
    assert list((calm[0] / "tensorboard").glob("events*"))


def test_a_finished_run_starts_no_worker_and_another_config_is_refused(calm, table, monkeypatch):
    told, log = ["schedule.steps=120", "cadence.checkpoint=40"], (calm[0] / "log.jsonl").read_text()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.train_job.TorchTrainer", lambda *told, **named: pytest.fail("workers were started"))
        assert equal(run(table, calm[0], *told), calm[1])
    # A model that is not whole is made again from the last checkpoint, and nothing is trained.
    weights = calm[0] / "model/model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert equal(run(table, calm[0], *told), calm[1])
    assert weights.read_bytes() == whole
    assert (calm[0] / "log.jsonl").read_text() == log
    with pytest.raises(UserError, match=r"schedule\.rate.*--fresh"):
        run(table, calm[0], "schedule.steps=120", "schedule.rate=0.1")


@pytest.mark.campaign
def test_a_killed_worker_comes_back_to_the_same_weights(calm, table, tmp_path):
    """SIGKILL after the first checkpoint; Ray Train starts another worker, which resumes in the middle of an epoch."""
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if list(tmp_path.glob("run/checkpoints/contrast-*/manifest.json")):
                for process in psutil.Process().children(recursive=True):
                    if "RayTrainWorker" in " ".join(process.cmdline()):
                        process.kill()
                        killed.append(process.pid)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    weights = run(table, tmp_path / "run", "schedule.steps=120", "cadence.checkpoint=40")
    thread.join()
    assert killed
    assert equal(weights, calm[1])
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(10, 121, 10))


@pytest.mark.campaign
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_killed_driver_goes_on_to_the_same_weights(calm, table, tmp_path, seed):
    """SIGKILL of the driver, and of all that it started, at a checkpoint drawn by the seed; then the same command."""
    output, step = tmp_path / "run", 10 * random.Random(seed).randrange(1, 10)
    words = [f"data.uri={table}", f"output.uri={output}", *TINY, "schedule.steps=120", "cadence.checkpoint=10"]
    kill_when(
        lambda: list(output.glob(f"checkpoints/contrast-{step:08d}-*/manifest.json")),
        [sys.executable, "-m", "jobs", "train-encoder", *words, "--quiet"],
    )
    assert not list(output.glob("checkpoints/contrast-00000120-*/manifest.json"))
    assert equal(run(table, output, "schedule.steps=120", "cadence.checkpoint=10"), calm[1])
    told = [json.loads(line)["step"] for line in (output / "log.jsonl").read_text().splitlines()]
    assert told == list(range(10, 121, 10))


@pytest.mark.campaign
def test_two_workers_do_what_one_does(table, local_ray, tmp_path):
    told = ["schedule.steps=20", "schedule.rate=0.001"]
    one = run(table, tmp_path / "one", *told)
    two = run(table, tmp_path / "two", *told, "workers.count=2", "workers.cpus=0.5")
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5


@pytest.mark.campaign
def test_checkpoints_and_model_go_to_a_bucket(table, s3_bucket):
    """In a process of its own: the Ray of the other tests was started without the bucket's keys."""
    told = [f"data.uri={table}", f"output.uri={s3_bucket}/run", *TINY, "schedule.steps=20", "cadence.checkpoint=10"]
    command = [sys.executable, "-m", "jobs.train_encoder", *told]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert f"{s3_bucket}/run/model" in ended.stdout
    bucket = s3fs.S3FileSystem()
    found = {path.split("/run/", 1)[1] for path in bucket.find(f"{s3_bucket}/run")}
    assert {"model/config.json", "model/model.safetensors", "log.jsonl"} <= found
    assert sum(name.endswith("manifest.json") for name in found) == 2


@pytest.mark.campaign
def test_a_picture_that_cannot_be_read_ends_the_run_with_its_name(table, local_ray, tmp_path):
    rows = pq.read_table(table).to_pylist()
    rows[5]["image"] = {"bytes": b"no picture", "path": "broken.png"}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "broken.parquet")
    with pytest.raises(UserError, match=r"broken\.png.*cannot be decoded[^\n]*\Z"):
        run(tmp_path / "broken.parquet", tmp_path / "run", "schedule.steps=20")
