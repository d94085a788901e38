"""A tiny training run from table to model: resumed anywhere it ends in the bytes of the undisturbed one."""

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from actors import gan_trainer
from actors.backend_gan import GanBackend
from actors.checkpoints import load_checkpoint, save_checkpoint
from actors.contracts import ImageJob
from actors.errors import JobError, UserError
from actors.gan_trainer import GanTrainer
from jobs.train_gan import run
from pipeline.captions import COLOURS
from pipeline.emoji_table import SCHEMA
from pipeline.picture_set import PictureSet, train_tokenizer

TINY = [
    "threads=1",
    "networks.text_dim=16", "networks.noise_dim=4", "networks.latent_channels=4", "networks.stem_width=16",
    "networks.stem_blocks=1", "networks.widths=[8]", "networks.vocabulary=320",
    "schedule.steps=[4,4,4]", "schedule.batch=[4,4,4]", "schedule.checkpoint_every=2", "schedule.noises=2",
    "sheet=[red disc]",
]  # fmt: skip


class Killed(BaseException):
    """What a test throws into a run instead of SIGKILL."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows: list[dict[str, Any]] = []
    for index, (name, colour) in enumerate(COLOURS.items()):
        rgb = Image.new("HSV", (1, 1), (round(colour.hue * 255), 220, 220)).convert("RGB").getpixel((0, 0))
        picture = np.full((16, 16, 3), 255, np.uint8)
        picture[4:12, 4:12] = rgb
        sink = io.BytesIO()
        Image.fromarray(picture).save(sink, "PNG")
        rows.append(
            {
                "image": {"bytes": sink.getvalue(), "path": f"{name}.png"}, "hexcode": str(index), "group": "objects",
                "label_en": "disc", "label_zh": "圆盘", "tags_en": [], "tags_zh": [], "colour": name,
                "recoloured": index > 0,
            }
        )  # fmt: skip
    path = tmp_path_factory.mktemp("data") / "discs.parquet"
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    return path


def train(data: Path, output: Path, *more: str) -> dict[str, bytes]:
    """Runs the job and returns what it made but the log, which also tells of steps that were done twice."""
    run(None, [f"data={data}", f"output={output}", *TINY, *more])
    files = sorted(path for path in output.rglob("*") if path.is_file() and path.name != "log.jsonl")
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in files}


def weights(made: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in made.items() if name.endswith((".safetensors", ".png"))}


@pytest.fixture(scope="module")
def output(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    train(data, output)
    return output


@pytest.fixture(scope="module")
def undisturbed(output: Path) -> dict[str, bytes]:
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name != "log.jsonl"
    }


def test_run_leaves_a_model_that_renders_a_sheet_and_a_log(output: Path) -> None:
    backend = GanBackend(output / "model", torch.device("cpu"))
    (picture,) = backend.render([ImageJob("a", "a red disc", None, 1, None, None)])
    assert picture.shape == (16, 16, 3)
    assert Image.open(output / "sheet.png").size > (0, 0)
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert {line["phase"] for line in lines} == set(gan_trainer.PHASES)
    assert all(math.isfinite(value) for line in lines for key, value in line.items() if key != "phase")


def test_same_seed_same_bytes_and_another_seed_other_ones(
    data: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    again, other = train(data, tmp_path / "again"), train(data, tmp_path / "other", "seed=1")
    assert weights(again) == weights(undisturbed)
    assert other["model/generator.safetensors"] != undisturbed["model/generator.safetensors"]


# 12 steps; those of the last phase call `_descend` twice (critic, then generator): 4 + 4 + 8 calls.
@pytest.mark.parametrize("call", [1, 3, 4, 5, 8, 9, 10, 14, 16])
def test_run_killed_at_any_step_and_started_again_ends_in_the_same_bytes(
    data: Path, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    whole, calls = GanTrainer._descend, iter(range(1, 100))

    def mortal(*arguments: Any) -> None:
        whole(*arguments)
        if next(calls) == call:
            raise Killed

    monkeypatch.setattr(GanTrainer, "_descend", mortal)
    with pytest.raises(Killed):
        train(data, tmp_path)
    monkeypatch.undo()
    assert weights(train(data, tmp_path)) == weights(undisturbed)


@pytest.mark.parametrize("saved", [1, 2, 4, 5, 6])
def test_run_killed_while_it_saves_goes_on_from_the_checkpoint_before(
    data: Path, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, saved: int
) -> None:
    """Half of the new checkpoint is on disk beside the old one."""
    calls = iter(range(1, 100))

    def torn(directory: Path, phase: str, *rest: Any) -> None:
        if next(calls) < saved:
            return save_checkpoint(directory, phase, *rest)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{phase}.tmp").write_bytes(b"half")
        raise Killed

    monkeypatch.setattr(gan_trainer, "save_checkpoint", torn)
    with pytest.raises(Killed):
        train(data, tmp_path)
    monkeypatch.undo()
    assert weights(train(data, tmp_path)) == weights(undisturbed)


def test_finished_run_started_again_trains_nothing_and_gives_the_same_model(
    data: Path, output: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any) -> None:
        raise AssertionError("a finished run took a step")

    monkeypatch.setattr(GanTrainer, "_descend", never)
    assert weights(train(data, output)) == weights(undisturbed)


def test_each_phase_changes_its_own_part(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    from safetensors.torch import load

    first, second, third = (load(undisturbed[f"checkpoints/{phase}.safetensors"]) for phase in gan_trainer.PHASES)

    def changed(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], part: str) -> bool:
        names = [name for name in a if name.startswith(part)]
        assert names, part
        return any(not torch.equal(a[name], b[name]) for name in names)

    assert changed(first, second, "generator/stem")
    assert changed(first, second, "text/")
    assert not changed(first, second, "encoder/")
    assert not changed(first, second, "generator/decoder")
    assert changed(second, third, "generator/decoder")
    assert changed(second, third, "critic/")
    assert changed(second, third, "average/")
    assert not changed(second, third, "text/")
    # The average starts at the generator of the phase before and lags behind that of this phase.
    name = "decoder.layers.0.weight"
    assert not torch.equal(third[f"average/{name}"], second[f"generator/{name}"])
    assert not torch.equal(third[f"average/{name}"], third[f"generator/{name}"])


def test_run_that_diverges_stops_and_keeps_the_last_good_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint = GanTrainer._paint

    def explode(self: GanTrainer, optimisers: Any, index: int, *rest: Any) -> dict[str, float]:
        values = paint(self, optimisers, index, *rest)
        return {**values, "loss": math.nan} if index == 3 else values

    monkeypatch.setattr(GanTrainer, "_paint", explode)
    with pytest.raises(JobError, match="diverged in phase autoencoder at step 3"):
        train(data, tmp_path)
    module = torch.nn.Module()
    assert load_checkpoint(tmp_path / "checkpoints", "autoencoder", {"none": module}, []) == 2


def test_checkpoint_restores_weights_and_moments(tmp_path: Path) -> None:
    def step(layer: torch.nn.Linear, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        layer(torch.ones(1, 3)).square().sum().backward()
        optimiser.step()

    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1)
    step(layer, optimiser)
    save_checkpoint(tmp_path, "x", 7, {"layer": layer}, [optimiser])
    other = torch.nn.Linear(3, 2)
    other_optimiser = torch.optim.AdamW(other.parameters(), lr=0.1)
    assert load_checkpoint(tmp_path, "x", {"layer": other}, [other_optimiser]) == 7
    for one, its in ((layer, optimiser), (other, other_optimiser)):
        step(one, its)
    assert torch.equal(layer.weight, other.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_no_checkpoint_means_the_beginning(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "nowhere", "x", {}, []) == 0


def test_tokenizer_keeps_ideographs_apart_and_ends_with_a_token_that_is_not_2(data: Path) -> None:
    tokenizer = train_tokenizer(PictureSet(data, 16), 1000, 0)
    assert tokenizer.eos_token_id != 2, "transformers would pool a CLIP text at its highest token id"
    assert tokenizer("a disc").input_ids[-1] == tokenizer.eos_token_id
    assert tokenizer("A Disc").input_ids == tokenizer("a disc").input_ids
    pieces = [tokenizer.decode([token]) for token in tokenizer("一个圆盘在沙滩上").input_ids]
    assert "盘" in "".join(pieces)
    assert all(sum("\u4e00" <= char <= "\u9fff" for char in piece) <= 1 for piece in pieces), pieces


@pytest.mark.parametrize("override", ["networks.width=[8]", "schedule.steps=[1,2]", "schedule.ema=1"])
def test_config_that_does_not_fit_is_the_users_mistake(data: Path, tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError):
        train(data, tmp_path, override)


def test_training_goes_on_from_a_model_with_its_words_and_its_decoder(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "first")
    start = tmp_path / "first/model"
    train(data, tmp_path / "second", f"start={start}", "schedule.steps=[2,2,0]", "seed=1")
    before, after = (load_file(path / "generator.safetensors") for path in (start, tmp_path / "second/model"))
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("decoder.")} <= kept
    assert {"scale", "shift"} <= kept
    assert not {name for name in before if name.startswith("stem.") and before[name].any()} <= kept
    assert (start / "tokenizer.json").read_bytes() == (tmp_path / "second/model/tokenizer.json").read_bytes()
    with pytest.raises(UserError, match="are not those of networks"):
        train(data, tmp_path / "third", f"start={start}", "networks.noise_dim=5")
