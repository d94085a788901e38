"""Checkpoints: whole ones come back byte for byte, torn ones are passed over, the last and the best are kept."""

from __future__ import annotations

import pytest

from pipeline.checkpoint_store import CheckpointStore
from pipeline.storage import Store


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "run"))
    return Store(f"{request.getfixturevalue('s3_bucket')}/run")


def save(checkpoints: CheckpointStore, place: Store, step: int, score: float | None = None, phase: int = 1) -> str:
    with place.scratch() as files:
        (files / "weights.safetensors").write_bytes(b"weights" * step)
        (files / "position.json").write_text(str(step))
        return checkpoints.put(files, "play", (phase, step), score).name


def test_the_newest_comes_back_as_it_was(place, tmp_path):
    checkpoints = CheckpointStore(place, 2, pytest.fail)
    assert checkpoints.latest(tmp_path / "none") is None
    save(checkpoints, place, 1)
    name = save(checkpoints, place, 2)
    found = checkpoints.latest(tmp_path / "back")
    assert found is not None
    assert found.name == name
    assert (tmp_path / "back" / "weights.safetensors").read_bytes() == b"weights" * 2
    assert (tmp_path / "back" / "position.json").read_text() == "2"


def test_a_hostile_name_steers_no_log(tmp_path):
    place = Store(str(tmp_path / "run"))
    torn = tmp_path / "run/checkpoints/play\x1b[2J\nforged: line"
    torn.mkdir(parents=True)
    (torn / "manifest.json").write_text("no json")
    said: list[str] = []
    assert CheckpointStore(place, 5, said.append).latest(tmp_path / "back") is None
    assert "play[U+001B][2J forged: line" in said[0]


@pytest.mark.parametrize("damage", ["no manifest", "cut off", "missing file", "other bytes", "manifest cut off"])
def test_a_torn_checkpoint_is_never_taken(damage, tmp_path):
    place = Store(str(tmp_path / "run"))
    said: list[str] = []
    checkpoints = CheckpointStore(place, 5, said.append)
    save(checkpoints, place, 1)
    torn = tmp_path / "run" / save(checkpoints, place, 2)
    weights = torn / "weights.safetensors"
    if damage == "no manifest":
        (torn / "manifest.json").unlink()
    elif damage == "cut off":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "missing file":
        weights.unlink()
    elif damage == "other bytes":
        weights.write_bytes(b"x" + weights.read_bytes()[1:])
    else:
        (torn / "manifest.json").write_text('{"order"')
    found = checkpoints.latest(tmp_path / "back")
    assert found is not None
    assert found.order == (1, 1)
    assert (tmp_path / "back" / "weights.safetensors").read_bytes() == b"weights"
    assert bool(said) == (damage != "no manifest")


def test_the_last_ones_and_the_best_are_kept(place):
    checkpoints = CheckpointStore(place, 2, pytest.fail)
    names = [save(checkpoints, place, step, score) for step, score in enumerate([0.1, 0.9, 0.3, 0.2, 0.4], 1)]
    whole = [name for name in names if place.read(f"{name}/manifest.json") is not None]
    assert whole == [names[1], *names[3:]]
    left = [name for name in names if place.read(f"{name}/weights.safetensors") is not None]
    assert left == whole
    assert place.directories("checkpoints") == tuple(sorted(whole))


def test_a_later_phase_is_newer_than_any_step_of_an_earlier_one(tmp_path):
    place = Store(str(tmp_path / "run"))
    checkpoints = CheckpointStore(place, 3, pytest.fail)
    save(checkpoints, place, 900, phase=0)
    name = save(checkpoints, place, 5, phase=1)
    found = checkpoints.latest(tmp_path / "back")
    assert found is not None
    assert found.name == name


def test_starting_over_leaves_nothing(place, tmp_path):
    checkpoints = CheckpointStore(place, 2, pytest.fail)
    save(checkpoints, place, 1)
    checkpoints.clear()
    assert checkpoints.latest(tmp_path / "back") is None
    assert place.directories("checkpoints") == ()


@pytest.mark.parametrize("damage", ["missing", "cut off", "one bit", "empty"])
def test_a_checkpoint_with_any_single_object_damaged_is_passed_over(damage, tmp_path):
    """Each object in turn, the manifest too; what is taken is always a whole checkpoint, byte for byte."""
    place = Store(str(tmp_path / "run"))
    checkpoints = CheckpointStore(place, 5, lambda said: None)
    save(checkpoints, place, 1)
    newest = tmp_path / "run" / save(checkpoints, place, 2)
    names = sorted(path.name for path in newest.iterdir())
    assert names == ["manifest.json", "position.json", "weights.safetensors"]
    for name in names:
        whole = (newest / name).read_bytes()
        if damage == "missing":
            (newest / name).unlink()
        else:
            torn = {"cut off": whole[:-1], "one bit": bytes([whole[0] ^ 1]) + whole[1:], "empty": b""}[damage]
            (newest / name).write_bytes(torn)
        found = checkpoints.latest(tmp_path / damage / name)
        assert found is not None
        assert found.order == (1, 1), name
        assert (tmp_path / damage / name / "weights.safetensors").read_bytes() == b"weights"
        (newest / name).write_bytes(whole)
        again = checkpoints.latest(tmp_path / damage / f"{name}-mended")
        assert again is not None
        assert again.order == (1, 2)
