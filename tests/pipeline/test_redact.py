"""Columns that are dropped or hashed reach no object of the output, and what cannot be redacted is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.errors import UserError
from jobs.cli import main
from pipeline.commit import read_records
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.config_stages import Prompts
from pipeline.describe import describe_again
from pipeline.graph import generate_settings
from pipeline.prompts import open_table
from pipeline.run_record import claim
from pipeline.source import RowReader
from pipeline.stages import GenerateStage
from pipeline.synthesize import open_store, settle
from tests import models

SALT = b"s" * 32
CANARY = "canary-of-a-patient"
TABLE = {
    "text": [f"{CANARY} a heart", f"{CANARY} a tree", f"{CANARY} " * 40],
    "id": [f"{CANARY}-1", None, f"{CANARY}-3"],
    "name": [f"{CANARY} A", f"{CANARY} A", None],
    "age": pa.array([71, 72, 73], pa.int8()),
    "scan": pa.array([[1.0], [2.0], None], pa.list_(pa.float32())),
    "ward": ["north", "south", "north"],
}


class Nobody:
    def event(self, stage: str, kind: str) -> None: ...


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save_gan(tmp_path_factory.mktemp("gan"))


@pytest.fixture(autouse=True)
def salt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PM_TEST_SALT", base64.b64encode(SALT).decode())


def keyed(text: str) -> str:
    return hmac.new(SALT, text.encode(), hashlib.sha256).hexdigest()[:32]


def config_of(place: Path, *overrides: str) -> SynthesizeConfig:
    if not (place / "prompts.parquet").exists():
        pq.write_table(pa.table(TABLE), place / "prompts.parquet")
    return load_config(
        SynthesizeConfig,
        None,
        [f"prompts.uri={place}/prompts.parquet", "prompts.column=text", f"output.uri={place}/out", "expand=null",
         "limits.max_prompt_chars=100", *overrides],
    )  # fmt: skip


def made(config: SynthesizeConfig) -> list[dict[str, Any]]:
    """A run without Ray: what the actors do, one after the other; returns the output's rows."""
    store = open_store(config)
    run, recipes = settle(config, store)
    run = claim(store, run)
    stage = GenerateStage(generate_settings(config, run, store), Nobody())
    for block in RowReader(run.plan.table, run.plan.columns, config, frozenset(recipes)).blocks(run.plan.shard(0)):
        # Before the words must go to the models, Ray's blocks hold nothing that is redacted either.
        assert not [name for name in ("name", "id") if CANARY in str(block[name].to_pylist())]
        stage(block)
    describe_again(store)
    return pq.read_table(store.path(read_records(store, [0])[0]["data"]["name"])).to_pylist()


@pytest.mark.parametrize("words", ["drop", "hash"])
def test_nothing_of_what_is_redacted_lies_in_any_object(tmp_path, gan, words, capsys):
    asked = {"drop": ["scan"], "hash": ["id", "name", "age"]}
    asked[words] += ["prompt", "description"]
    config = config_of(
        tmp_path, f"generate.model={gan}", "redact.salt=env:PM_TEST_SALT",
        *(f"redact.{way}=[{','.join(names)}]" for way, names in asked.items()),
    )  # fmt: skip
    rows = made(config)
    objects = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(objects) == 7  # data, rejects, record, run, card, report, timings
    for path in objects:
        assert CANARY.encode() not in path.read_bytes(), path
        assert base64.b64encode(SALT) not in path.read_bytes(), path
    assert [row["name"] for row in rows] == [keyed(f"{CANARY} A")] * 2
    assert [row["age"] for row in rows] == [keyed("71"), keyed("72")]
    assert [row["ward"] for row in rows] == ["north", "south"]
    assert "scan" not in rows[0]
    hidden = [keyed(text) if words == "hash" else None for text in TABLE["text"][:2]]
    assert [row["prompt"] for row in rows] == [row["description"] for row in rows] == hidden
    assert rows[0]["prompt_id"] == keyed(f"{CANARY}-1")

    (reject,) = pq.read_table(tmp_path / "out/rejects").to_pylist()
    assert (reject["text"], reject["id"], reject["reject_reason"]) == (None, keyed(f"{CANARY}-3"), "prompt_too_long")
    assert open_table(Prompts(uri=f"{tmp_path}/out/rejects", column="text")).rows == 1
    capsys.readouterr()
    assert main(["verify", f"{tmp_path}/out", "--deep"]) == 0
    assert main(["render-row", f"{tmp_path}/out", rows[0]["id"]]) == 2
    assert "were redacted, so no image can be rendered from its row" in capsys.readouterr().err


def test_an_id_that_was_made_of_a_hidden_prompt_cannot_be_guessed_back(tmp_path, gan):
    config = config_of(
        tmp_path, f"generate.model={gan}", "redact.drop=[prompt,description,name]",
        "redact.salt=env:PM_TEST_SALT",
    )  # fmt: skip
    pq.write_table(pa.table({"text": TABLE["text"], "name": TABLE["name"]}), tmp_path / "prompts.parquet")
    run, _ = settle(config, open_store(config))
    (block,) = RowReader(run.plan.table, run.plan.columns, config, frozenset()).blocks(run.plan.shard(0))
    plain = config.model_copy(update={"redact": None})
    (open_block,) = RowReader(run.plan.table, run.plan.columns, plain, frozenset()).blocks(run.plan.shard(0))
    ids, guessable = (one["__promptmill_id"].to_pylist() for one in (block, open_block))
    assert ids == [keyed(name) for name in guessable]


def test_another_salt_or_another_choice_is_another_run(tmp_path, gan, monkeypatch):
    words = [f"generate.model={gan}", "redact.hash=[name]", "redact.salt=env:PM_TEST_SALT"]
    config = config_of(tmp_path, *words)
    store = open_store(config)
    claim(store, settle(config, store)[0])
    assert settle(config, store)[0].stored
    monkeypatch.setenv("PM_TEST_SALT", base64.b64encode(b"t" * 32).decode())
    with pytest.raises(UserError, match="redact_salt is"):
        settle(config, store)
    with pytest.raises(UserError, match=r"redact"):
        settle(config_of(tmp_path, words[0]), store)


def test_without_a_salt_a_hash_is_sha256(tmp_path, gan):
    config = config_of(tmp_path, f"generate.model={gan}", "redact.hash=[ward]")
    run, _ = settle(config, open_store(config))
    (block,) = RowReader(run.plan.table, run.plan.columns, config, frozenset()).blocks(run.plan.shard(0))
    assert block["ward"].to_pylist()[0] == hashlib.sha256(b"north").hexdigest()[:32]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["redact.drop=[nane]"], "there is no carried column 'nane'"),
        (["redact.drop=[name]", "redact.hash=[name]"], "names column 'name' twice"),
        (["redact.drop=[id]"], "name id under redact.hash"),
        (["redact.hash=[scan]"], "which has no one text; drop it"),
        (["redact.drop=[prompt]"], "name both of them or neither"),
        (["redact.drop=[text,description]"], "is called prompt in the output"),
        (["redact.drop=[prompt,description]"], "redact.salt must be env:NAME"),
        (["redact.hash=[name]", "redact.salt=env:PM_TEST_NONE"], "PM_TEST_NONE, which is not set here"),
        (["redact.hash=[name]", "redact.salt=thesaltitself"], "redact.salt must be env:NAME"),
        (["redact.drop=[seed]"], "decides what is made of a row, and its rejects are run again with it"),
    ],
)
def test_what_cannot_be_redacted_is_refused_before_any_work(tmp_path, gan, overrides, said):
    table = pa.table(TABLE).append_column("seed", pa.array([1, 2, 3]))
    pq.write_table(table, tmp_path / "prompts.parquet")
    config = config_of(tmp_path, f"generate.model={gan}", *overrides)
    with pytest.raises(UserError, match=said) as caught:
        settle(config, open_store(config))
    assert "thesaltitself" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_redaction_is_part_of_the_fingerprint_only_where_it_is_asked_for():
    asked = load_config(SynthesizeConfig, None, ["redact.drop=[name]", "redact.salt=env:PM_TEST_SALT"])
    assert asked.identity()["redact"] == {"drop": ["name"], "hash": []}
    assert "redact" not in SynthesizeConfig().identity()
