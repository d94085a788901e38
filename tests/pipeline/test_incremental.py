"""Which prompts earlier outputs have made, and what is left of a table: outputs of the real stages, without Ray."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.errors import UserError
from pipeline.config import SynthesizeConfig
from pipeline.config_output import Output
from pipeline.graph import generate_settings
from pipeline.incremental import PROMPTS, Chosen, choose_prompts, chosen_config, find_earlier
from pipeline.latest import move, pointer_to
from pipeline.made import made_keys, open_earlier
from pipeline.parquet_keys import KEY
from pipeline.retention import delete_older, put_note
from pipeline.run_date import dated, dated_place
from pipeline.run_record import claim
from pipeline.source import RowReader
from pipeline.stages import GenerateStage
from pipeline.storage import Store
from pipeline.synthesize import open_store, settle
from pipeline.verify import verify
from tests import models

Config = Callable[..., SynthesizeConfig]


class Nobody:
    def event(self, stage: str, kind: str) -> None: ...


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save_gan(tmp_path_factory.mktemp("gan"))


@pytest.fixture
def config(tmp_path: Path, gan: Path) -> Config:
    def config(table: pa.Table | dict[str, Any], date: str, **told: Any) -> SynthesizeConfig:
        path = tmp_path / f"{date}.parquet"
        pq.write_table(pa.table(table), path)
        raw: dict[str, Any] = {
            "prompts": {"uri": str(path)}, "expand": None, "generate": {"model": str(gan)}, "shards": {"rows": 3},
            "output": {"uri": f"{tmp_path}/set/{{date}}"}, **told,
        }  # fmt: skip
        return dated(SynthesizeConfig.model_validate(raw), date)

    return config


def make(config: SynthesizeConfig, shards: int | None = None) -> Store:
    """Makes an output, or its first shards, as the actors do."""
    store = open_store(config)
    run, _ = settle(config, store)
    run = claim(store, run)
    stage = GenerateStage(generate_settings(config, run, store), Nobody())
    reader = RowReader(run.plan.table, run.plan.columns, config, frozenset())
    for shard in range(run.plan.shards if shards is None else shards):
        (block,) = reader.blocks(run.plan.shard(shard))
        stage(block)
    return store


def choose(config: SynthesizeConfig, date: str, since: list[str] | None = None, **more: Any) -> Chosen:
    place = dated_place(str(Path(config.output.uri).parent / "{date}"))
    return choose_prompts(config, open_store(config), since or [], place, date, **more)


def frozen(config: SynthesizeConfig) -> pa.Table:
    return pq.read_table(f"{config.output.uri}/{PROMPTS}")


# Rows that ask for the same in all but one of what is honoured, each of which is another picture; and rejects.
ASKED = {
    "prompt": ["a", "a", "a", "a", "a", "猫", "", "b", "b", "c"],
    "negative_prompt": [None, "x", None, None, None, None, None, None, None, None],
    "num_images": pa.array([None, None, 2, None, None, 3, 1, 0, 1, None], pa.int32()),
    "seed": pa.array([None, None, None, 7, 8, 0, None, None, None, None], pa.int64()),
    "width": pa.array([None, None, None, None, 32, None, None, None, None, 33], pa.int32()),
    "note": [f"carried {i}" for i in range(10)],
}
MADE = [True] * 6 + [False, False, True, False]


@pytest.mark.parametrize("output_format", ["parquet", "webdataset", "files"])
@pytest.mark.parametrize("named", [False, True])
def test_what_an_output_made_is_told_from_its_rows(config: Config, output_format: str, named: bool) -> None:
    """With ids of the table's own, numbered anew the next night, and without; rejected rows count as not made."""
    output = {"uri": "{date}", "format": output_format}
    first = ASKED | ({"id": [f"n{i}" for i in range(10)]} if named else {})
    one = config(first, "2026-11-01")
    output["uri"] = one.output.uri
    make(one.model_copy(update={"output": one.output.model_copy(update={"format": output_format})}))
    again = ASKED | ({"id": [f"m{9 - i}" for i in range(10)]} if named else {}) | {"note": ["other"] * 10}
    two = config(again, "2026-11-02")
    chosen = choose(two, "2026-11-02")
    assert (chosen.rows, chosen.table_rows, chosen.made_before) == (3, 10, 7)
    left = [row for row, made in enumerate(MADE) if not made]
    assert frozen(two).equals(pq.read_table(two.prompts.uri).take(left)), "all columns, in the table's order"


def test_each_honoured_column_makes_another_prompt_and_ways_to_write_a_number_do_not(config: Config) -> None:
    make(config({"prompt": ["a", "b", "b"], "num_images": pa.array([2, None, None], pa.int32()),
                 "recipe": [None, "art", None]}, "2026-11-01"))  # fmt: skip
    changed: list[tuple[dict[str, Any], int]] = [
        ({"prompt": ["a", "b"], "num_images": pa.array([2.0, None]), "recipe": [None, "art"]}, 0),
        ({"prompt": ["a", "b"], "num_images": pa.array([2.0, float("nan")], from_pandas=False)}, 0),
        ({"prompt": ["a", "b"], "num_images": [2, None], "seed": pa.array([None, 5], pa.int64())}, 1),
        ({"prompt": ["a", "b"], "num_images": [3, None]}, 1),
        ({"prompt": ["a"], "recipe": ["art"]}, 1),
        ({"prompt": ["A", "b ", "b"]}, 2),
    ]
    for number, (table, left) in enumerate(changed, start=2):
        date = f"2026-11-{number:02d}"
        assert choose(config(table, date), date).rows == left, table


def test_the_choice_is_kept_whatever_becomes_of_table_and_earlier_outputs(config: Config, tmp_path: Path) -> None:
    old, new = [f"old {i}" for i in range(7)], [f"new {i}" for i in range(4)]
    make(config({"prompt": old}, "2026-11-01"))
    two = config({"prompt": [*old, *new]}, "2026-11-02")
    told: list[str] = []
    first = choose(two, "2026-11-02", say=told.append)
    assert frozen(two)["prompt"].to_pylist() == new
    assert first.compared[0]["output"] == f"{tmp_path}/set/2026-11-01"
    assert told == []
    run = chosen_config(two, open_store(two))
    before, _ = settle(run, open_store(run))
    # The export of the next morning is under the same name, and an earlier night was finished since.
    make(config({"prompt": new[:2]}, "2026-10-31"))
    changed = config({"prompt": ["something else"]}, "2026-11-02")
    second = choose(changed, "2026-11-02", say=told.append)
    assert (second.rows, second.compared, second.before) == (first.rows, first.compared, True)
    assert told == ["the 4 prompts of 2026-11-02 were chosen by an earlier start, of 11"]
    after, _ = settle(chosen_config(changed, open_store(changed)), open_store(changed))
    assert after.fingerprint == before.fingerprint
    # Another driver that has chosen meanwhile is followed: its table is there first.
    three = config({"prompt": [*old, "tonight"]}, "2026-11-03")
    store = open_store(three)
    store.create(PROMPTS, Path(f"{two.output.uri}/{PROMPTS}"))
    assert choose(three, "2026-11-03").rows == 4


def test_unfinished_and_later_nights_do_not_count_and_since_says_which_do(config: Config, tmp_path: Path) -> None:
    make(config({"prompt": [f"a{i}" for i in range(6)]}, "2026-11-01"))
    make(config({"prompt": [f"b{i}" for i in range(6)]}, "2026-11-02"), shards=1)
    make(config({"prompt": ["later"]}, "2026-11-09"))
    elsewhere = config({"prompt": ["by hand"]}, "2026-11-03")
    elsewhere = elsewhere.model_copy(
        update={"output": elsewhere.output.model_copy(update={"uri": f"{tmp_path}/other/run"})}
    )
    make(elsewhere)
    (tmp_path / "set/notes").mkdir()
    prompts = ["a0", "b0", "later", "by hand", "new"]
    told: list[str] = []
    two = config({"prompt": prompts}, "2026-11-05")
    assert choose(two, "2026-11-05", say=told.append).rows == 4
    assert frozen(two)["prompt"].to_pylist() == prompts[1:]
    assert "2026-11-02' is unfinished (1 of 2 shards), so its prompts count as not made" in told[0]

    both = [f"{tmp_path}/set/{{date}}", f"{tmp_path}/other/*", f"{tmp_path}/other/run"]
    three = config({"prompt": prompts}, "2026-11-06")
    chosen = choose(three, "2026-11-06", both)
    assert frozen(three)["prompt"].to_pylist() == ["b0", "later", "new"]
    assert len(chosen.compared) == 2, "each once"
    with pytest.raises(UserError, match=r"nightly.since names '.*gone', which is no output"):
        choose(config({"prompt": prompts}, "2026-11-07"), "2026-11-07", [f"{tmp_path}/gone"])
    nothing = config({"prompt": ["by hand", "a1"]}, "2026-11-08")
    assert choose(nothing, "2026-11-08", both) == Chosen(0, 2, 2, chosen.compared)
    assert not (tmp_path / "set/2026-11-08").exists(), "a night with nothing to do leaves no trace"


def test_earlier_nights_are_found_and_deleted_on_a_real_object_store(config: Config, s3_bucket: str) -> None:
    def on_s3(prompts: list[str], date: str) -> SynthesizeConfig:
        one = config({"prompt": prompts}, date)
        return one.model_copy(update={"output": one.output.model_copy(update={"uri": f"{s3_bucket}/set/{date}"})})

    place = dated_place(f"{s3_bucket}/set/{{date}}")
    for night, prompts in (("2026-11-01", ["a", "b", "c", "d"]), ("2026-11-02", ["e"])):
        put_note(make(on_s3(prompts, night)), place, night, {})
    three = on_s3(["new", "a", "e", "d"], "2026-11-03")
    store = open_store(three)
    for since in ([], [f"{s3_bucket}/set/2026-*"], [f"{s3_bucket}/set/2026-11-01", f"{s3_bucket}/set/2026-11-02/"]):
        found = list(find_earlier(store, since, place, "2026-11-03"))
        assert [one.store.uri for one in found] == [f"{s3_bucket}/set/2026-11-0{day}" for day in (1, 2)]
    chosen = choose_prompts(three, store, [], place, "2026-11-03")
    assert (chosen.rows, chosen.made_before) == (1, 3)
    run, _ = settle(chosen_config(three, store), store)
    assert run.plan.table.rows == 1
    parent = Store(f"{s3_bucket}/set")
    report = verify(open_store(on_s3(["e"], "2026-11-02")), quiet=True)
    pointer = move(parent, pointer_to(place, "2026-11-02", report)).pointer
    assert delete_older(parent, place, pointer, 1, lambda output: False) == ["2026-11-01"]
    assert parent.directories("") == ("2026-11-02", "2026-11-03")
    assert [entry.name for entry in parent.list("")] == ["latest.json"]


def test_encrypted_nights_are_compared_with_their_key_and_leave_no_prompt_readable(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, base64.b64encode(b"k" * 32).decode())
    sealed = {"encryption": {}}

    def at(prompts: list[str], date: str) -> SynthesizeConfig:
        one = config({"prompt": prompts}, date)
        output = Output.model_validate({**one.output.model_dump(), **sealed})
        return one.model_copy(update={"output": output})

    make(at(["canary one", "canary two"], "2026-11-01"))
    two = at(["canary two", "canary three"], "2026-11-02")
    assert choose(two, "2026-11-02").rows == 1
    run, _ = settle(chosen_config(two, open_store(two)), open_store(two))
    assert [t["prompt"].to_pylist() for t in run.plan.table.batches(["prompt"])] == [["canary three"]]
    assert not any(b"canary" in path.read_bytes() for path in (tmp_path / "set").rglob("*") if path.is_file())
    monkeypatch.delenv(KEY)
    for date in ("2026-11-02", "2026-11-03"):
        with pytest.raises(UserError, match=f"is encrypted: set {KEY} to its key"):
            choose(config({"prompt": ["a"]}, date), date)


def test_what_cannot_be_told_is_refused(config: Config, tmp_path: Path) -> None:
    store = make(config({"prompt": ["a"], "id": ["x"], "width": [32]}, "2026-11-01"))
    record = json.loads((tmp_path / "set/2026-11-01/_run/run.json").read_text())
    changes: list[tuple[list[str], Any, str]] = [
        (["identity", "config", "generate", "backend"], "diffusers", "left width to the model"),
        (["columns", "honoured"], ["image"], "mended pictures"),
        (["identity", "config", "redact"], {"drop": ["site"], "hash": ["prompt"]}, r"redacted columns \(prompt\)"),
    ]
    for path, value, sentence in changes:
        changed = json.loads(json.dumps(record))
        inner = changed
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        (tmp_path / "set/2026-11-01/_run/run.json").write_text(json.dumps(_sealed(changed)))
        with pytest.raises(UserError, match=sentence):
            open_earlier(store)
    make(config({"prompt": ["a"]}, "2026-11-02"))
    with pytest.raises(UserError, match=re.escape("holds a run that was not incremental")):
        choose(config({"prompt": ["a"]}, "2026-11-02"), "2026-11-02")
    hidden = config({"prompt": ["a"]}, "2026-11-03", redact={"drop": ["prompt", "description"]})
    with pytest.raises(UserError, match=re.escape("which redact is to prevent")):
        choose(hidden, "2026-11-03", [f"{tmp_path}/none/*"])
    mending = models.save_gan(tmp_path / "mending", "inpainting")
    mends = config({"prompt": ["a"]}, "2026-11-03", generate={"model": str(mending)})
    with pytest.raises(UserError, match=re.escape("generate works from pictures")):
        choose(mends, "2026-11-03", [f"{tmp_path}/none/*"])


def _sealed(record: dict[str, Any]) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps(record["identity"], sort_keys=True).encode()).hexdigest()
    return {**record, "fingerprint": digest}


def test_images_are_not_read(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a shard of images far larger than a read-ahead block, the keys cost a small part."""
    one = config({"prompt": [f"p{i}" for i in range(4)]}, "2026-11-01", shards={"rows": 4})
    store = make(one)
    data = Path(one.output.uri, "data/shard-000000.parquet")
    table = pq.read_table(data)
    noise = np.random.default_rng(0).bytes(8 << 20)
    image = pa.array([{"bytes": noise, "path": None}] * 4, table.schema.field("image").type)
    number = table.schema.get_field_index("image")
    pq.write_table(table.set_column(number, table.schema.field("image"), image), data, use_dictionary=False)
    read = []
    opened = store.fs.open

    def counting(*args: Any, **kwargs: Any) -> Any:
        stream = opened(*args, **kwargs)
        plain = stream.read

        def count(size: int = -1) -> bytes:
            found = plain(size)
            read.append(len(found))
            return bytes(found)

        stream.read = count
        return stream

    monkeypatch.setattr(store.fs, "open", counting)
    (keys,) = made_keys(open_earlier(store))
    assert len(keys) == 4
    assert 0 < sum(read) < 1 << 20 < data.stat().st_size
