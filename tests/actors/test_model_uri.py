"""Model URIs: where a model is found, which weights are refused, and what its hash depends on."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import fsspec
import pytest

from actors.errors import UserError
from actors.model_uri import resolve_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    (directory / "part").mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "part" / "model.safetensors").write_bytes(b"numbers")
    (directory / "README.md").write_text("a card")
    return directory


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_a_directory_is_used_where_it_lies(model: Path, cache: Path) -> None:
    found = resolve_model(str(model), cache=cache)
    assert found.path == model
    assert resolve_model(model.as_uri(), cache=cache).sha256 == found.sha256


def test_the_hash_follows_weights_and_config_and_nothing_else(model: Path, cache: Path, tmp_path: Path) -> None:
    before = resolve_model(str(model), cache=cache).sha256
    (model / "README.md").write_text("another card")
    (model / ".cache").mkdir()
    (model / ".cache" / "x.json").write_text("1")
    assert resolve_model(str(model), cache=cache).sha256 == before
    moved = model.rename(tmp_path / "moved")
    assert resolve_model(str(moved), cache=cache).sha256 == before
    (moved / "part" / "model.safetensors").write_bytes(b"numbers!")
    assert resolve_model(str(moved), cache=cache).sha256 != before


def test_a_store_is_copied_once_and_again_when_it_changed(model: Path, cache: Path) -> None:
    store, root = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    for path in model.rglob("*.*"):
        store.pipe_file(f"{root}/{path.relative_to(model).as_posix()}", path.read_bytes())
    first = resolve_model(f"memory:/{root}", cache=cache)
    assert first.sha256 == resolve_model(str(model), cache=cache).sha256
    assert cache in first.path.parents
    written = (first.path / "config.json").stat().st_mtime_ns
    assert resolve_model(f"memory:/{root}", cache=cache).path == first.path
    assert (first.path / "config.json").stat().st_mtime_ns == written
    store.pipe_file(f"{root}/part/model.safetensors", b"other numbers")
    assert resolve_model(f"memory:/{root}", cache=cache).sha256 != first.sha256


def test_a_package_is_looked_into_and_not_imported(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "pm_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    model.rename(package / "tiny")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve_model("package:pm_weights/tiny").path == package / "tiny"
    assert "pm_weights" not in sys.modules
    with pytest.raises(UserError, match="leaves its package"):
        resolve_model("package:pm_weights/../elsewhere")


def test_a_hub_name_that_is_nowhere_says_how_to_download_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="hf://nobody/nothing-here"):
        resolve_model("nobody/nothing-here", cache=tmp_path)


def test_pickles_are_refused_for_each_part_by_itself(model: Path, cache: Path) -> None:
    (model / "other").mkdir()
    (model / "other" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match=r"other/pytorch_model\.bin.*allow_unsafe_models"):
        resolve_model(str(model), cache=cache)
    assert resolve_model(str(model), cache=cache, allow_unsafe=True).path == model
    (model / "other" / "model.safetensors").write_bytes(b"numbers")
    assert resolve_model(str(model), cache=cache).path == model


def test_credentials_in_a_uri_are_not_shown(cache: Path) -> None:
    with pytest.raises(UserError) as raised:
        resolve_model("memory://user:hunter2@bucket/nothing?sig=secret", cache=cache)
    assert "hunter2" not in str(raised.value)
    assert "secret" not in str(raised.value)
