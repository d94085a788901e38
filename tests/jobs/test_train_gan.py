"""train-gan on Ray Train: all phases run, resume exactly, and do the same with two workers; its model renders."""

from __future__ import annotations

import gzip
import json
import math
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from actors.backend_gan import GanBackend
from actors.contracts import ImageJob
from actors.errors import JobError, UserError
from actors.gan_directory import task_of
from actors.gan_trainer import GanTrainer
from pipeline.checkpoint_store import CheckpointStore
from pipeline.config_file import load_config
from pipeline.export import export
from pipeline.gan_config import TrainGanConfig
from pipeline.storage import Store
from pipeline.train_gan import train_gan
from tests.faults.proxy import FaultProxy, Request
from tests.jobs.test_kill import kill_when
from tests.shapes import save_encoder, save_table

# Gentle rates: without the moments of Adam, whose first steps turn a rounding into a sign, 20 steps of two workers stay
# within rounding of one worker's.
TINY = [
    "networks.noise_dim=9", "networks.latent_channels=4", "networks.stem_width=32", "networks.stem_blocks=1",
    "networks.widths=[8]", "autoencoder.steps=12", "autoencoder.batch=16", "regression.steps=12", "regression.batch=16",
    "regression.noises=2", "adversarial.steps=20", "adversarial.batch=16", "adversarial.lazy=2",
    "adversarial.reconstruction=1", "adversarial.weight=0.1", "adversarial.similarity=0.1",
    "adversarial.free=0.25", "autoencoder.rate=1e-4", "regression.rate=1e-4",
    "cadence.log=4", "cadence.checkpoint=8", "cadence.watch=20", "watch.pictures=24", "watch.each=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return save_table(tmp_path_factory.mktemp("table") / "shapes.parquet")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def run(table: Path, encoder: Path, output: Path, *more: str, fresh: bool = False) -> dict[str, torch.Tensor]:
    """Trains, and returns all weights of the newest checkpoint."""
    told = [f"data.uri={table}", f"encoder={encoder}", f"output.uri={output}", *TINY, *more]
    train_gan(load_config(TrainGanConfig, None, told), fresh=fresh, address=None, quiet=True, debug=False)
    return last_weights(output)


def last_weights(output: Path) -> dict[str, torch.Tensor]:
    newest = max(output.glob("checkpoints/adversarial-*"))
    found: dict[str, torch.Tensor] = {}
    for path in newest.glob("*.safetensors"):
        found |= {f"{path.stem}/{name}": value for name, value in load_file(path).items()}
    return found


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def calm(table, encoder, tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """An undisturbed run of all phases, as a newcomer types it: in a process of its own, by relative paths."""
    place = tmp_path_factory.mktemp("calm")
    shutil.copy(table, place / "shapes.parquet")
    shutil.copytree(encoder, place / "encoder")
    told = ["data.uri=shapes.parquet", "encoder=encoder", "output.uri=out/gan", *TINY]
    command = [sys.executable, "-m", "jobs", "train-gan", *told]
    ended = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "generate.model=out/gan/model" in ended.stdout
    return place / "out/gan", last_weights(place / "out/gan")


def lines(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def test_all_phases_are_logged_with_finite_values_and_the_watch_with_measures(calm):
    found = lines(calm[0])
    assert [(line["phase"], line["step"]) for line in found if line["step"] in (4, 12, 20)] == [
        ("autoencoder", 4), ("autoencoder", 12), ("regression", 4), ("regression", 12),
        ("adversarial", 4), ("adversarial", 12), ("adversarial", 20),
    ]  # fmt: skip
    assert all(math.isfinite(value) for line in found for key, value in line.items() if key != "phase")
    last = found[-1]
    assert {"loss_d", "loss_g", "r1", "r2", "accuracy", "grad_norm_g", "grad_norm_d", "ema_distance"} <= last.keys()
    assert {"fd", "r_precision", "diversity", "nearest", "sharpness"} <= last.keys()
    assert last["seconds"] > 0


def test_sheets_are_kept_under_phase_and_step(calm):
    names = sorted(path.name for path in (calm[0] / "sheets").iterdir())
    assert names == ["adversarial-00000020.png", "regression-00000012.png"]
    assert Image.open(calm[0] / "sheets" / names[0]).width > 100


def test_the_page_shows_curves_and_sheets_and_loads_nothing(calm):
    page = (calm[0] / "report.html").read_text()
    assert page.count("<path d=") > 20
    assert page.count("data:image/png;base64,") == 2
    assert "default-src 'none'" in page
    assert "http://" not in page
    assert "https://" not in page


def test_the_model_renders_its_size_and_its_card_tells_cost_and_config(calm):
    backend = GanBackend(calm[0] / "model", torch.device("cpu"))
    (made,) = backend.render([ImageJob("a", "a red circle", None, 1, None, None)])
    assert made.shape == (16, 16, 3)
    card = (calm[0] / "model/README.md").read_text()
    assert "core hours" in card
    assert '"noise_dim": 9' in card


def test_export_of_a_checkpoint_is_the_model_and_a_best_one_can_be_asked_for(calm, tmp_path):
    assert export(str(calm[0]), str(tmp_path / "newest"), best=False).startswith("adversarial-00000020")
    same = "generator.safetensors"
    assert (tmp_path / "newest" / same).read_bytes() == (calm[0] / "model" / same).read_bytes()
    named = min(path.parent.name for path in calm[0].glob("checkpoints/*/manifest.json"))
    assert export(f"{calm[0]}/checkpoints/{named}", str(tmp_path / "named"), best=False) == named
    assert export(str(calm[0]), str(tmp_path / "best"), best=True)
    GanBackend(tmp_path / "best", torch.device("cpu"))
    with pytest.raises(UserError, match="no whole checkpoint 'nothing'"):
        export(f"{calm[0]}/checkpoints/nothing", str(tmp_path / "x"), best=False)
    with pytest.raises(UserError, match="holds no training run"):
        export(str(tmp_path), str(tmp_path / "x"), best=False)


def go_on(
    calm: tuple[Path, dict[str, torch.Tensor]], output: Path, monkeypatch: pytest.MonkeyPatch, *more: str
) -> dict[str, torch.Tensor]:
    """The undisturbed run from where its game began, by the same relative paths."""
    monkeypatch.chdir(calm[0].parents[1])
    shutil.copytree(calm[0], output, ignore=shutil.ignore_patterns("adversarial-*", "finished.json", "model"))
    return run(Path("shapes.parquet"), Path("encoder"), output, *more)


@pytest.mark.parametrize(
    "phases",
    [["adversarial"], pytest.param(["autoencoder", "regression", "adversarial"], marks=pytest.mark.campaign)],
    ids=["the game", "every phase"],
)
def test_a_killed_worker_comes_back_to_the_same_weights(calm, table, encoder, local_ray, tmp_path, monkeypatch, phases):
    """SIGKILL after the first checkpoint of a phase."""
    killed: list[str] = []
    over = threading.Event()

    def kill() -> None:
        for phase in phases:
            while not over.is_set() and not list(tmp_path.glob(f"run/checkpoints/{phase}-00000008-*/manifest.json")):
                time.sleep(0.02)
            for process in psutil.Process().children(recursive=True):
                if "RayTrainWorker" in " ".join(process.cmdline()):
                    process.kill()
                    killed.append(phase)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        alone = len(phases) == 1
        weights = go_on(calm, tmp_path / "run", monkeypatch) if alone else run(table, encoder, tmp_path / "run")
    finally:
        over.set()
        thread.join()
    assert set(killed) == set(phases)
    assert equal(weights, calm[1])
    assert [(line["phase"], line["step"]) for line in lines(tmp_path / "run")] == [
        (line["phase"], line["step"]) for line in lines(calm[0])
    ]


@pytest.mark.campaign
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_killed_driver_goes_on_to_the_same_weights(calm, table, encoder, tmp_path, seed):
    """SIGKILL of the driver, and of all that it started, at a checkpoint drawn by the seed; then the same command."""
    phases = {"autoencoder": 12, "regression": 12, "adversarial": 12}
    places = [(phase, step) for phase, last in phases.items() for step in range(2, last + 1, 2)]
    chosen = random.Random(seed).randrange(len(places))
    output = tmp_path / "run"
    words = [f"data.uri={table}", f"encoder={encoder}", f"output.uri={output}", *TINY, "cadence.checkpoint=2"]
    kill_when(
        lambda: any(list(output.glob(f"checkpoints/{p}-{s:08d}-*/manifest.json")) for p, s in places[chosen:]),
        [sys.executable, "-m", "jobs", "train-gan", *words, "--quiet"],
    )
    assert not list(output.glob("checkpoints/adversarial-00000020-*/manifest.json"))
    weights = run(table, encoder, output, "cadence.checkpoint=2")
    assert equal(weights, calm[1])
    # Each checkpoint has its line; none is missing, none is there twice.
    told = [(line["phase"], line["step"]) for line in lines(output)]
    assert told == [*places, *(("adversarial", step) for step in (14, 16, 18, 20))]


def newest_weights(store: Store, directory: Path) -> dict[str, torch.Tensor]:
    """All weights of a run's newest whole checkpoint."""
    assert CheckpointStore(store, 1, pytest.fail).latest(directory) is not None
    found: dict[str, torch.Tensor] = {}
    for path in directory.glob("*.safetensors"):
        found |= {f"{path.stem}/{name}": value for name, value in load_file(path).items()}
    return found


@pytest.mark.campaign
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_store_that_dies_during_an_upload_ends_the_run_and_the_same_command_ends_in_the_same_weights(
    calm, table, encoder, tmp_path, s3_server, s3_bucket, seed
):
    """From a put on that the seed draws nothing reaches the store any more; then it is back."""
    words = [f"data.uri={table}", f"encoder={encoder}", f"output.uri={s3_bucket}/run", *TINY, "cadence.checkpoint=2",
             "output.attempts=3", "output.max_backoff=0.1"]  # fmt: skip
    command = [sys.executable, "-m", "jobs", "train-gan", *words, "--quiet"]
    last = random.Random(seed).randrange(5, 60)
    uploads: list[str] = []

    def dies(request: Request) -> str | None:
        if request.method == "PUT" and "/checkpoints/" in request.target:
            uploads.append(request.target)
        return "cut upload" if len(uploads) > last else None

    with FaultProxy(s3_server.endpoint) as proxy:
        environment = {**os.environ, "AWS_ENDPOINT_URL_S3": proxy.endpoint}
        proxy.reset(dies)
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 1, ended.stderr
        assert "run again to resume" in ended.stderr.strip().splitlines()[-1]
        assert "Traceback" not in ended.stderr
        proxy.reset()
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 0, ended.stderr
    store = Store(f"{s3_bucket}/run", {"endpoint_url": s3_server.endpoint})
    assert equal(newest_weights(store, tmp_path), calm[1])


@pytest.fixture(scope="module")
def warmed(table, encoder, local_ray, tmp_path_factory) -> Path:
    """The newest checkpoint of a run that ends before the game."""
    output = tmp_path_factory.mktemp("warmed")
    told = [f"data.uri={table}", f"encoder={encoder}", f"output.uri={output}", *TINY, "adversarial.steps=0"]
    train_gan(load_config(TrainGanConfig, None, told), fresh=False, address=None, quiet=True, debug=False)
    return next((output / "checkpoints").glob("regression-00000012-*/manifest.json")).parent


STILL = ["autoencoder.steps=0", "regression.steps=0", "adversarial.steps=1", "adversarial.lazy=2", "seed=5",
         "adversarial.rate=1e-12", "adversarial.critic_rate=1e-12", "cadence.watch=1000"]  # fmt: skip


def test_a_run_begins_with_the_networks_of_another_and_a_start_that_does_not_fit_is_refused(
    calm, table, encoder, local_ray, tmp_path
):
    weights = run(table, encoder, tmp_path / "run", *STILL, f"start={calm[0]}")
    for name in (name for name in calm[1] if name.startswith(("generator/", "text/", "coder/", "critic/"))):
        assert torch.allclose(weights[name], calm[1][name], atol=1e-6), name
    assert "from the networks" in (tmp_path / "run/model/README.md").read_text()
    with pytest.raises(UserError, match=r"another config or table \(.*start\)"):
        run(table, encoder, tmp_path / "run", *STILL)
    with pytest.raises(UserError, match="holds no training run"):
        run(table, encoder, tmp_path / "none", *STILL, f"start={tmp_path}")
    with pytest.raises(UserError, match="holds no whole checkpoint"):
        run(table, encoder, tmp_path / "none", *STILL, f"start={calm[0]}/checkpoints/nothing")
    changed = shutil.copytree(encoder, tmp_path / "encoder")
    save_file({n: t + 1 for n, t in load_file(changed / "model.safetensors").items()}, changed / "model.safetensors")
    with pytest.raises(UserError, match="with another encoder"):
        run(table, changed, tmp_path / "none", *STILL, f"start={calm[0]}")


@pytest.mark.campaign
def test_what_a_critic_begins_with(warmed, calm, table, encoder, local_ray, tmp_path):
    """D is new where no game was played, but for its lower layers: the autoencoder's, unless ``warm_critic`` is off."""
    first = "layers.1.weight"
    before = {part: load_file(warmed / f"{part}.safetensors") for part in ("generator", "text", "coder")}
    warm = run(table, encoder, tmp_path / "warm", *STILL, f"start={warmed}")
    for part, tensors in before.items():
        for name, tensor in tensors.items():
            assert torch.allclose(warm[f"{part}/{name}"], tensor, atol=1e-6), name
    assert torch.allclose(warm[f"critic/backbone.{first}"], before["coder"][first], atol=1e-6)
    cold = run(table, encoder, tmp_path / "cold", *STILL, f"start={warmed}", "adversarial.warm_critic=false")
    assert not torch.allclose(cold[f"critic/backbone.{first}"], before["coder"][first], atol=1e-3)
    with pytest.raises(UserError, match="have other sizes"):
        run(table, encoder, tmp_path / "wide", *STILL, f"start={calm[0]}", "networks.stem_width=48")


TWO = ["workers.count=2", "workers.cpus=0.5"]


@pytest.mark.parametrize(
    ("otherwise", "warm"),
    [
        pytest.param(TWO, True, id="two workers in the game"),
        pytest.param(TWO, False, id="two workers", marks=pytest.mark.campaign),
        pytest.param(["compute.accumulate=4"], False, id="micro-batches", marks=pytest.mark.campaign),
    ],
)
def test_two_workers_and_micro_batches_do_what_one_worker_does(
    calm, table, encoder, local_ray, tmp_path, monkeypatch, otherwise, warm
):
    output = tmp_path / "run"
    two = go_on(calm, output, monkeypatch, *otherwise) if warm else run(table, encoder, output, *otherwise)
    one = calm[1]
    parts = ("generator/", "critic/", "average/", "coder/", "text/")
    apart = {name: (one[name] - two[name]).abs().max().item() for name in one if name.startswith(parts)}
    assert max(apart.values()) < 1e-5, max(apart, key=apart.__getitem__)


@pytest.mark.campaign
@pytest.mark.parametrize("task", ["inpainting", "restoration"])
def test_a_picture_as_condition_trains_by_the_same_code(table, encoder, local_ray, tmp_path, task):
    told = [f"networks.task={task}", "autoencoder.steps=0", "regression.steps=0", "adversarial.steps=8"]
    weights = run(table, encoder, tmp_path, *told, "cadence.watch=8", "cadence.profile=true")
    assert any(name.startswith("generator/given.") for name in weights)
    last = lines(tmp_path)[-1]
    baselines = ["_mean_colour", "_telea"] if task == "inpainting" else ["_given"]
    assert all(math.isfinite(last[f"{name}{which}"]) for name in ("psnr", "ssim") for which in ["", *baselines])
    assert (tmp_path / "sheets/adversarial-00000008.png").is_file()
    assert task_of(tmp_path / "model") == task
    trace = json.loads(gzip.decompress((tmp_path / "profile/adversarial.json.gz").read_bytes()))
    assert any("conv" in event["name"] for event in trace["traceEvents"])


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    table, encoder, tmp_path, local_ray
):
    with pytest.raises(JobError, match=r"diverged in phase adversarial .* is good"):
        run(table, encoder, tmp_path, "regression.steps=0", "adversarial.rate=1e18", "adversarial.steps=40",
            "cadence.checkpoint=1000")  # fmt: skip
    assert not list(tmp_path.glob("checkpoints/adversarial-*/manifest.json"))
    assert list(tmp_path.glob("checkpoints/autoencoder-*/manifest.json"))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (["autoencoder.steps=0"], "regression.steps needs an autoencoder"),
        (["networks.task=inpainting"], "has no warm start"),
        (["adversarial.batch=10", "compute.accumulate=4"], r"adversarial.batch=10 cannot be cut"),
        (["adversarial.weight=0", "adversarial.reconstruction=0"], "G would learn nothing"),
    ],
)
def test_a_config_that_cannot_be_trained_is_refused_in_a_sentence(table, encoder, tmp_path, told, said):
    with pytest.raises(UserError, match=said):
        run(table, encoder, tmp_path, *told)


def test_the_warm_start_is_off_on_gpus_and_can_be_asked_for():
    def steps(*told: str) -> tuple[int | None, int | None]:
        config = load_config(TrainGanConfig, None, list(told)).settled()
        return config.autoencoder.steps, config.regression.steps

    assert all(steps())
    assert steps("workers.gpus=1") == (0, 0)
    assert steps("workers.gpus=1", "autoencoder.steps=5", "regression.steps=6") == (5, 6)


def test_a_certain_discriminator_and_a_constant_generator_are_called_collapsed():
    trainer = GanTrainer.__new__(GanTrainer)
    trainer._quiet = 0
    fine = {"loss_d": 0.6, "accuracy": 0.9, "logit_real": 1.0, "logit_fake": 0.0, "spread": 0.2}
    assert all(trainer.collapsed("adversarial", fine) is None for _ in range(20))
    found = [trainer.collapsed("adversarial", {**fine, "spread": 0.0}) for _ in range(5)]
    assert found[:4] == [None] * 4
    assert "same picture" in str(found[4])
    trainer._quiet = 0
    certain = {**fine, "accuracy": 1.0, "logit_real": 50.0}
    assert "beyond doubt" in str([trainer.collapsed("adversarial", certain) for _ in range(5)][-1])
