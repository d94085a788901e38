"""Models in stores: copied once a node, whole or not at all, verified, and taken away when room is needed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest

from actors.cache_limit import MANIFEST, entries, make_room, parse_size, shrink
from actors.errors import JobError, UserError
from actors.model_cache import made_once
from actors.model_uri import resolve_model
from jobs.cli import main

WEIGHTS = os.urandom(3 << 20)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMPTMILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def uri(s3_bucket: str) -> str:
    """A model in a real S3 bucket, with sums of its files."""
    store = fsspec.filesystem("s3")
    files = {"model.safetensors": WEIGHTS, "config.json": b"{}", "part/other.safetensors": b"numbers"}
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    for name, data in {**files, "SHA256SUMS": sums.encode()}.items():
        store.pipe_file(f"{s3_bucket}/model/{name}", data)
    return f"{s3_bucket}/model"


def test_processes_that_start_together_copy_it_once(uri: str, cache: Path) -> None:
    command = [sys.executable, "-m", "tests.actors.model_race", uri]
    racing = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = {process.communicate(timeout=300)[0] for process in racing}
    assert [process.returncode for process in racing] == [0, 0, 0]
    assert len(told) == 1, "another path, another file, or other content"
    (entry,) = entries(cache)
    assert entry.files["model.safetensors"] == {"size": len(WEIGHTS), "sha256": hashlib.sha256(WEIGHTS).hexdigest()}
    assert set(entry.files) == {"model.safetensors", "config.json", "part/other.safetensors"}
    assert entry.uri == uri


def test_what_differs_from_its_sums_is_never_taken_for_whole(uri: str, cache: Path) -> None:
    fsspec.filesystem("s3").pipe_file(f"{uri}/part/other.safetensors", b"damaged")
    with pytest.raises(JobError, match=r"other\.safetensors has not the content .*SHA256SUMS"):
        resolve_model(uri)
    assert entries(cache) == []
    assert not [path for path in (cache / "models").iterdir() if path.is_dir()]


@pytest.mark.parametrize("stable", [True, False])
def test_an_etag_that_is_an_md5_is_held_against_the_copy(
    uri: str, cache: Path, monkeypatch: pytest.MonkeyPatch, stable: bool
) -> None:
    """Copies that change each time are a broken line; two that agree are what the store has, whatever its ETag is."""
    store = fsspec.filesystem("s3")
    store.rm_file(f"{uri}/SHA256SUMS")
    copied = 0
    get = store.get_file

    def torn(path: str, local: str) -> None:
        nonlocal copied
        get(path, local)
        if path.endswith("model.safetensors"):
            copied += 1
            with Path(local).open("r+b") as stream:
                stream.write(b"torn" if stable else os.urandom(8))

    monkeypatch.setattr(store, "get_file", torn)
    if stable:
        assert resolve_model(uri).path.is_dir()
        assert copied == 2
    else:
        with pytest.raises(JobError, match=r"model\.safetensors has not the content .*size and MD5"):
            resolve_model(uri)
        assert copied == 3


def test_a_process_that_dies_half_way_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    dying = (
        "import os, sys; from pathlib import Path; from actors.model_cache import made_once\n"
        "def fill(directory):\n    (directory / 'half').write_bytes(b'x'); os._exit(9)\n"
        "made_once(Path(sys.argv[1]), fill)"
    )
    target = tmp_path / "models" / "one"
    ended = subprocess.run([sys.executable, "-c", dying, str(target)], check=False, timeout=300)
    assert ended.returncode == 9
    assert not target.exists()
    made_once(target, lambda directory: (directory / "whole").touch())
    assert [path.name for path in target.iterdir()] == ["whole"]
    assert [path.name for path in target.parent.iterdir() if path.is_dir()] == ["one"], "the half copy is cleared away"


def _model(cache: Path, name: str, size: int, age: float) -> Path:
    path = made_once(cache / "models" / name, lambda directory: (directory / "w").write_bytes(b"x" * size) and None)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_the_longest_unused_goes_first_and_nothing_of_the_last_hour(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, older, fresh = (
        _model(cache, name, 1000, age) for name, age in (("old", 7200), ("older", 9000), ("fresh", 60))
    )
    made_once(older, lambda directory: pytest.fail("it is there already"))
    os.utime(old, (time.time() - 8000,) * 2)
    assert [entry.path for entry in entries(cache)] == [old, fresh, older]
    monkeypatch.setenv("PROMPTMILL_CACHE_LIMIT", "3500")
    make_room(cache, 1000, "s3://b/m")
    assert not old.exists()
    assert older.exists(), "it was used a moment ago"
    assert [entry.path for entry in shrink(cache, 0)] == []
    assert fresh.exists()
    monkeypatch.setenv("PROMPTMILL_CACHE_LIMIT", "1T")
    with pytest.raises(UserError, match=r"needs 9\d+\.\d GiB.*models prune"):
        make_room(cache, 10**15, "s3://b/m")


def test_sizes() -> None:
    assert [parse_size(text) for text in ("500M", "1.5G", "2TiB", "12")] == [500 << 20, 3 << 29, 2 << 40, 12]
    with pytest.raises(UserError, match="no size"):
        parse_size("many")


def test_a_node_with_another_copy_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"numbers")
    known = resolve_model(str(tmp_path)).sha256
    assert resolve_model(str(tmp_path), expect=known).sha256 == known
    (tmp_path / "model.safetensors").write_bytes(b"others")
    with pytest.raises(JobError, match="another one on this node"):
        resolve_model(str(tmp_path), expect=known)


def test_adapters_are_taken_where_one_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"numbers")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(UserError, match="is an adapter"):
        resolve_model(str(tmp_path))
    assert resolve_model(str(tmp_path), adapter=True).sha256
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "PREFIX_TUNING"}')
    with pytest.raises(UserError, match="is no LoRA"):
        resolve_model(str(tmp_path), adapter=True)


def test_pull_list_and_prune(uri: str, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "pull", uri]) == 0
    assert str(cache) in capsys.readouterr().out
    assert main(["models", "list", "--check"]) == 0
    assert "whole" in capsys.readouterr().out
    (entry,) = entries(cache)
    assert (entry.path / MANIFEST).is_file()
    (entry.path / "config.json").write_text("{ }")
    assert main(["models", "list", "--check"]) == 1
    assert "config.json has changed" in capsys.readouterr().err
    assert main(["models", "prune", "--to", "0"]) == 0
    assert entry.path.is_dir(), "it was used within the hour"
    assert main(["models", "prune", "--all"]) == 0
    assert "1 models" in capsys.readouterr().out
    assert entries(cache) == []
