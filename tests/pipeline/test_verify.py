"""Verification finds each kind of damage, and after a repair the same work makes the same bytes again."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from actors.errors import UserError
from pipeline.commit import ShardCommitter, encode_record, record_name
from pipeline.drivers import noted
from pipeline.formats import FORMATS as KINDS
from pipeline.formats.base import ShardImages
from pipeline.id_census import Doubled, IdCensus
from pipeline.run_record import RUN
from pipeline.storage import Store
from pipeline.verify import Report, verify
from tests.pipeline.sound_outputs import FORMATS, PER_SHARD, make_sound_output, marked_png, shard_result

SHARDS = 4


def tree(store: Store) -> dict[str, bytes]:
    """Every object but the quarantined ones."""
    root = Path(store.root)
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.startswith("_run/quarantine/")}


def kinds(report: Report, shard: int) -> set[str]:
    return {finding.kind for finding in report.findings if finding.shard == shard}


def flip(store: Store, name: str, position: int = -30) -> None:
    """Changes one bit of an object, its size stays."""
    data = bytearray(store.read(name) or b"")
    data[position] ^= 1
    store.replace(name, bytes(data))


def rejects_of(store: Store, shard: int) -> str:
    return next(entry.name for entry in store.list("rejects") if f"shard-{shard:06d}" in entry.name)


def make_again(committer: ShardCommitter, shards: list[int]) -> None:
    for shard in shards:
        committer.adopt(shard) or committer.commit(shard_result(shard))


def record(store: Store, shard: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.read(record_name(shard)) or b"")
    return found


Damage = Callable[[Store, str], None]


def change_record(**changes: Any) -> Damage:
    def damage(store: Store, kind: str) -> None:
        store.replace(record_name(1), encode_record({**record(store, 1), **changes}))

    return damage


def data_name(kind: str) -> str:
    return KINDS[kind]().data_name(1)


def flip_in_a_picture(store: Store, kind: str) -> None:
    """In the middle of a picture, which no container notices."""
    name = record(store, 1)["parts"][0]["name"] if kind == "files" else data_name(kind)
    picture = marked_png(shard_result(1).rows["id"][0].as_py(), 50)
    flip(store, name, (store.read(name) or b"").index(picture) + picture.index(b"IDAT") + 6)


# What is done to shard 1, what verify calls it, and whether it must be made anew (or only its record is written again).
DAMAGES: dict[str, tuple[Damage, str, bool]] = {
    "a bit of the data object": (lambda store, kind: flip(store, data_name(kind)), "damaged", True),
    "the data object cut short": (
        lambda store, kind: store.replace(data_name(kind), (store.read(data_name(kind)) or b"")[:-700]),
        "damaged", True,
    ),
    "the data object gone": (lambda store, kind: store.remove(data_name(kind)), "missing", True),
    "a bit of the rejects": (lambda store, kind: flip(store, rejects_of(store, 1)), "damaged", True),
    "the rejects gone": (lambda store, kind: store.remove(rejects_of(store, 1)), "missing", True),
    "a record of noise": (lambda store, kind: store.replace(record_name(1), b"\x00noise"), "record_damaged", False),
    "an empty record": (lambda store, kind: store.replace(record_name(1), b""), "record_damaged", False),
    "a record that counts wrongly": (change_record(committed=7), "record_damaged", False),
    "a record with other tokens than its data": (change_record(tokens=1), "record_damaged", False),
    "a record of another run": (change_record(fingerprint="0" * 64), "record_damaged", False),
    "a record that points elsewhere": (
        change_record(data={"name": "../../thesis.tex", "size": 1, "sha256": "0" * 64}), "record_damaged", False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_found_and_a_repair_leads_back_to_the_same_bytes(tmp_path: Path, kind: str, name: str) -> None:
    damage, called, remade = DAMAGES[name]
    store, committer = make_sound_output(tmp_path / "out", kind, SHARDS)
    before = tree(store)
    assert verify(store, quiet=True).sound
    damage(store, kind)
    broken = tree(store)
    report = verify(store, quiet=True)
    assert called in kinds(report, 1)
    assert {finding.shard for finding in report.findings} == {1}, "the neighbours are sound"
    assert report.sound_shards == SHARDS - 1
    assert tree(store) == broken, "looking changes nothing"

    report = verify(store, repair=True, quiet=True)
    assert report.reopened == ([1] if remade else [])
    assert report.rewritten == ([] if remade else [1])
    # What was moved lies in the quarantine as it was.
    for moved in report.quarantined:
        assert store.read(moved) == broken[moved.split("/", 3)[3]]
    if remade:
        assert kinds(verify(store, quiet=True), 1) == {"gap"}
        make_again(committer, report.reopened)
    assert tree(store) == before
    assert verify(store, deep=True, quiet=True).sound


@pytest.mark.parametrize("kind", FORMATS)
def test_a_bit_that_no_reader_notices_is_found_by_the_hash(tmp_path: Path, kind: str) -> None:
    store, _ = make_sound_output(tmp_path / "out", kind, SHARDS)
    flip_in_a_picture(store, kind)
    assert kinds(verify(store, quiet=True), 1) == {"image" if kind == "files" else "damaged"}


@pytest.mark.parametrize("harm", ["flip", "remove"])
def test_a_damaged_image_file_opens_its_shard_though_record_and_metadata_are_sound(tmp_path: Path, harm: str) -> None:
    store, committer = make_sound_output(tmp_path / "out", "files", SHARDS)
    before = tree(store)
    part = record(store, 1)["parts"][1]["name"]
    if harm == "flip":
        flip(store, part)
    else:
        store.remove(part)
    report = verify(store, repair=True, quiet=True)
    assert [(finding.kind, finding.name) for finding in report.findings] == [("image", part)]
    make_again(committer, report.reopened)
    assert tree(store) == before


def test_a_damaged_image_is_mended_also_where_its_metadata_is_damaged_too(tmp_path: Path) -> None:
    store, committer = make_sound_output(tmp_path / "out", "files", SHARDS)
    before = tree(store)
    flip(store, record(store, 1)["parts"][0]["name"])
    flip(store, data_name("files"))
    store.remove(record_name(1))
    report = verify(store, repair=True, quiet=True)
    assert report.reopened == [1]
    make_again(committer, [1])
    assert tree(store) == before


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_data_without_a_sound_record_is_made_again_not_adopted(tmp_path: Path, kind: str) -> None:
    store, committer = make_sound_output(tmp_path / "out", kind, SHARDS)
    before = tree(store)
    flip_in_a_picture(store, kind)
    store.replace(record_name(1), b"{}")
    report = verify(store, repair=True, quiet=True)
    assert kinds(report, 1) == {"image", "record_damaged"}
    assert (report.reopened, report.rewritten) == ([1], [])
    make_again(committer, [1])
    assert tree(store) == before


def test_shards_that_are_not_there_yet_are_gaps_and_what_waits_for_its_record_is_left_alone(tmp_path: Path) -> None:
    store, committer = make_sound_output(tmp_path / "out", "parquet", SHARDS)
    before = tree(store)
    store.remove(record_name(1))  # the data waits for its record
    for name in (record_name(2), KINDS["parquet"]().data_name(2)):
        store.remove(name)
    report = verify(store, repair=True, quiet=True)
    assert [(finding.kind, finding.shard) for finding in report.findings] == [("uncommitted", 1), ("gap", 2)]
    assert not report.quarantined
    make_again(committer, [1, 2])
    assert tree(store) == before


@pytest.mark.parametrize("kind", FORMATS)
def test_what_no_record_names_is_an_orphan(tmp_path: Path, kind: str) -> None:
    store, _ = make_sound_output(tmp_path / "out", kind, SHARDS)
    stray = {
        "data/holiday.parquet": "none",
        "data/more/holiday.parquet": "none",
        "rejects/shard-000001-0123456789ab.parquet": "collect",
        "rejects/shard-000099-0123456789ab.parquet": "none",
    }
    if kind == "files":
        stray["data/shard-000002/000000-0123456789ab.png"] = "collect"
    for name in stray:
        store.create(name, b"stray")
    report = verify(store, repair=True, quiet=True)
    assert {finding.kind for finding in report.findings} == {"orphan"}
    found = {finding.name: finding.mend for finding in report.findings}
    assert found == {("data/more/" if "more" in name else name): mend for name, mend in stray.items()}
    assert all(store.read(name) == b"stray" for name in stray), "a repair moves no stranger"


@pytest.mark.parametrize("kind", FORMATS)
def test_ids_that_two_shards_share_are_found_and_both_are_made_again(tmp_path: Path, kind: str) -> None:
    store, committer = make_sound_output(tmp_path / "out", kind, SHARDS)
    before = tree(store)
    for entry in [record(store, 2)["data"], *record(store, 2)["parts"]]:
        store.remove(entry["name"])
    store.remove(record_name(2))
    committer.commit(shard_result(2, ids_of=0))  # a sound shard by all that its record says
    report = verify(store, repair=True, quiet=True)
    assert [(finding.kind, finding.shard) for finding in report.findings] == [("doubled_id", 2)] * 3
    assert report.findings[0].detail == "row 0 has the id of row 0 of shard 0"
    assert report.reopened == [0, 2]
    for name in set(tree(store)) - set(before):
        store.remove(name)  # image files of the wrong shard: gc's work
    make_again(committer, [0, 2])
    assert tree(store) == before


def test_the_census_finds_each_repeat_once_and_names_the_first() -> None:
    with IdCensus() as census:
        for shard in range(40):
            for row in range(100):
                census.take(shard, row, f"{shard}-{row}")
        for shard, row, image_id in ((7, 100, "3-14"), (9, 100, "3-14"), (2, 100, "39-99"), (5, 100, "猫\ud800")):
            census.take(shard, row, image_id)
        assert sorted(census.doubled()) == [Doubled(7, 100, 3, 14), Doubled(9, 100, 3, 14), Doubled(39, 99, 2, 100)]


def test_deep_reads_pictures_and_marks(tmp_path: Path) -> None:
    store, committer = make_sound_output(tmp_path / "out", "parquet", SHARDS)
    for name in (record_name(2), KINDS["parquet"]().data_name(2)):
        store.remove(name)
    made = shard_result(2)
    ids = made.rows["id"].to_pylist()
    pictures = [marked_png("somebody-else", 1), marked_png(ids[1], 2)[:-40], b"\x00GIF"]
    committer.commit(type(made)(**{**vars(made), "images": type(made.images)(lambda row: pictures[row], "png")}))
    assert verify(store, quiet=True).sound, "each is what its record says"
    details = [finding.detail for finding in verify(store, deep=True, quiet=True).findings]
    assert [detail.partition(" (")[0] for detail in details] == [
        "row 0: the marks of its image name another image id",
        "row 1: its image does not decode",
        "row 2: its image does not decode",
    ]


@pytest.mark.parametrize("kind", FORMATS)
def test_deep_finds_pictures_without_marks(tmp_path: Path, kind: str) -> None:
    store, committer = make_sound_output(tmp_path / "out", kind, 2)
    for entry in [*record(store, 1)["parts"], record(store, 1)["data"]]:
        store.remove(entry["name"])
    store.remove(record_name(1))
    made, bare = shard_result(1), io.BytesIO()
    Image.new("RGB", (16, 12)).save(bare, "PNG")
    committer.commit(type(made)(**{**vars(made), "images": ShardImages(lambda row: bare.getvalue(), "png")}))
    assert not {finding.kind for finding in verify(store, quiet=True).findings} - {"orphan"}
    found = [finding for finding in verify(store, deep=True, quiet=True).findings if finding.kind != "orphan"]
    assert {finding.shard for finding in found} == {1}
    assert len(found) == PER_SHARD - 1
    assert all("lacks the marks of synthetic media" in finding.detail for finding in found), found


def test_a_damaged_run_record_is_told_and_moved_away(tmp_path: Path) -> None:
    store, _ = make_sound_output(tmp_path / "out", "parquet", SHARDS)
    run = json.loads(store.read(RUN) or b"")
    run["identity"]["config"]["seed"] = 5
    store.replace(RUN, encode_record(run))
    report = verify(store, repair=True, quiet=True)
    assert [finding.kind for finding in report.findings] == ["run_record"]
    assert store.read(RUN) is None
    assert json.loads(store.read(report.quarantined[0]) or b"") == run


def test_a_repair_waits_for_runs_at_work_and_a_dead_ones_note_is_no_run(tmp_path: Path) -> None:
    store, _ = make_sound_output(tmp_path / "out", "parquet", SHARDS)
    store.remove(data_name("parquet"))
    with noted(store), pytest.raises(UserError, match=r"1 run\(s\) work on"):
        verify(store, repair=True, quiet=True)
    assert store.read(record_name(1)) is not None
    store.replace("_run/drivers/dead.json", b"{}")
    os.utime(Path(store.path("_run/drivers/dead.json")), (0, 0))
    assert verify(store, repair=True, quiet=True).reopened == [1]


@pytest.mark.parametrize("name", [RUN, record_name(1)])
def test_a_newer_format_version_ends_in_one_sentence_and_is_no_damage(tmp_path: Path, name: str) -> None:
    store, _ = make_sound_output(tmp_path / "out", "parquet", SHARDS)
    store.replace(name, encode_record({**json.loads(store.read(name) or b""), "format": 2}))
    with pytest.raises(UserError, match=r"has format version 2, and this promptmill knows versions up to 1; install"):
        verify(store, repair=True, quiet=True)
    assert store.list("_run/quarantine") == []


def test_on_s3_too(s3_bucket: str) -> None:
    store, committer = make_sound_output(f"{s3_bucket}/out", "files", 2)
    assert verify(store, deep=True, quiet=True).sound
    part = record(store, 1)["parts"][0]["name"]
    flip(store, part)
    store.replace(record_name(0), b"noise")
    damaged = store.read(part)
    report = verify(store, repair=True, quiet=True)
    assert (report.reopened, report.rewritten) == ([1], [0])
    assert damaged in [store.read(name) for name in report.quarantined]
    make_again(committer, [1])
    assert verify(store, deep=True, quiet=True).sound
