"""The bad-input table of the main job: one sentence, exit status 2 for the user's mistakes, no traceback, nothing lost.

Rows that are turned away one by one are in tests/pipeline/test_prompts.py; tables in the same file.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import main


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"prompt": ["a cat", "一只猫"]}), path)
    return path


def command(tmp_path: Path, tiny_gan: Path, table: Path, *overrides: str, verb: str = "synthesize") -> list[str]:
    return [
        verb, f"prompts.uri={table}", f"output.uri={tmp_path / 'out'}", f"generate.model={tiny_gan}", "expand=null",
        *overrides,
    ]  # fmt: skip


def one_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    errors = capsys.readouterr().err.strip()
    assert errors.startswith("promptmill: "), errors
    assert "\n" not in errors
    assert "Traceback" not in errors
    return errors


CASES = [
    (["prompts.uri=nowhere.parquet"], "no prompt table at 'nowhere.parquet'"),
    (["prompts.column=text"], "set prompts.column to one of ['prompt']"),
    (["prompts.columns=[colour]"], "no column 'colour'"),
    (["promts.uri=x"], "unknown option 'promts"),
    (["generate.backend=dalle"], "'generate.backend'"),
    (["generate.images=0"], "'generate.images'"),
    (["generate.actors.cpus=-1"], "'generate.actors.cpus'"),
    (["expand={recipe: phto}"], "'photo'"),
    (["generate.model=nowhere/model"], "nowhere/model"),
    (["generate.model={weightless}"], "weights"),
    (["generate.model={pickled}"], "convert it to safetensors"),
    (["generate.model=package:nosuchpackage"], "nosuchpackage"),
    (["output.uri={file}/out"], "is a file, not a directory"),
    (["output.uri=nosuch://bucket/x"], "no place that fsspec can open"),
]


@pytest.mark.parametrize(("overrides", "says"), CASES, ids=[c[0][0] for c in CASES])
def test_mistakes_of_the_user_are_one_sentence_and_status_2(
    tmp_path: Path,
    tiny_gan: Path,
    table: Path,
    overrides: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weightless, pickled, file = tmp_path / "weightless", tmp_path / "pickled", tmp_path / "file"
    weightless.mkdir()
    (weightless / "config.json").write_text("{}")
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    file.write_text("")
    filled = [
        text.replace("{weightless}", str(weightless)).replace("{pickled}", str(pickled)).replace("{file}", str(file))
        for text in overrides
    ]
    assert main(command(tmp_path, tiny_gan, table, *filled)) == 2
    assert says in one_sentence(capsys)
    assert not (tmp_path / "out" / "data").exists()


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("plan", "generate.backend=diffusers generate.model={pickled} expand=null prompts.uri={table}"),
        ("plan", "generate.model={gan} expand.model={pickled} prompts.uri={table}"),
        ("plan", "generate.model={gan} expand=null select.score=true select.model={pickled} prompts.uri={table}"),
        ("train-gan", "encoder={pickled} data.uri={table}"),
        ("evaluate", "features.model={pickled} generated.uri={images}"),
    ],
    ids=["generate", "expand", "select", "train-gan", "evaluate"],
)
def test_a_pickled_model_needs_the_flag_that_its_error_names(
    tmp_path: Path, tiny_gan: Path, table: Path, verb: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pickled, images = tmp_path / "pickled", tmp_path / "images.parquet"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    pq.write_table(pa.table({"image": [b"x", b"y"], "prompt": ["a", "b"]}), images)
    given = [verb, *words.format(pickled=pickled, gan=tiny_gan, table=table, images=images).split()]
    given.append(f"output.uri={tmp_path / 'out'}")
    assert main(given) == 2
    assert "allow_unsafe_models: true (--allow-unsafe-models)" in one_sentence(capsys)
    main([*given, "--allow-unsafe-models"])
    assert "allow_unsafe_models" not in capsys.readouterr().err


def test_debug_shows_where(tmp_path: Path, tiny_gan: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command(tmp_path, tiny_gan, table, "prompts.column=text"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_wrong_credentials_and_missing_buckets_are_told_apart_and_never_printed(
    tmp_path: Path,
    tiny_gan: Path,
    table: Path,
    s3_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = command(tmp_path, tiny_gan, table)
    assert main([*words, "output.uri=s3://no-such-bucket-here/x"]) == 2
    assert "no such" in one_sentence(capsys)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2canary")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    assert main([*words, f"output.uri={s3_bucket}/x"]) == 2
    said = one_sentence(capsys)
    assert "credentials" in said or "access denied" in said
    assert "hunter2canary" not in said


def test_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.config import SynthesizeConfig
    from pipeline.config_file import options

    assert main(["synthesize", "--help"]) == 0
    printed = capsys.readouterr().out
    for key, _, _, _ in options(SynthesizeConfig):
        assert key in printed
