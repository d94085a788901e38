"""Outputs whose Parquet is encrypted: what stays readable, who reads the rest, and shards of random bytes."""

from __future__ import annotations

import base64
import secrets

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap

from actors.errors import UserError
from pipeline.commit import ShardCommitter, read_records, record_name
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.config_stages import Prompts
from pipeline.describe import describe_again
from pipeline.parquet_encryption import ParquetEncryption
from pipeline.parquet_keys import KEY, KMS, open_parquet
from pipeline.plain_parquet import PlainParquet
from pipeline.prompts import open_table
from pipeline.read_output import find_row
from pipeline.verify import verify
from tests.pipeline.sound_outputs import make_sound_output, shard_result

OWN, OTHER, SERVICE = (secrets.token_bytes(32) for _ in range(3))
WORDS = b"a description of"
TEXTS = ("prompt", "description", "image")
WAYS = {
    "whole": (ParquetEncryption(), OWN),
    "columns": (ParquetEncryption(TEXTS), OWN),
    "service": (ParquetEncryption(key_id="datasets/7"), None),
    "columns by a service": (ParquetEncryption(TEXTS, key_id="datasets/7"), None),
}


def b64(*keys: bytes) -> str:
    return ",".join(base64.b64encode(key).decode() for key in keys)


class Service(pe.KmsClient):
    """A key service as a user would write one; it knows one master key."""

    def __init__(self, config: pe.KmsConnectionConfig) -> None:
        super().__init__()

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        assert master_key_identifier == "datasets/7"
        return base64.b64encode(aes_key_wrap(SERVICE, key_bytes)).decode()

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        return aes_key_unwrap(SERVICE, base64.b64decode(wrapped_key))


def unlock(monkeypatch: pytest.MonkeyPatch, key: bytes | None) -> None:
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.delenv(KMS, raising=False)
    if key is None:
        monkeypatch.setenv(KMS, f"{__name__}:Service")
    else:
        monkeypatch.setenv(KEY, b64(key))


@pytest.mark.parametrize("way", WAYS)
def test_an_encrypted_output_is_read_with_the_key_and_by_nobody_else(tmp_path, monkeypatch, way):
    encryption, key = WAYS[way]
    unlock(monkeypatch, key)
    store, _ = make_sound_output(tmp_path, "parquet", shards=2, encryption=encryption)
    describe_again(store)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert WORDS not in path.read_bytes(), path
    report = verify(store, deep=True, quiet=True)
    assert report.sound
    assert report.opened
    row = find_row(store, "parquet", read_records(store, [0, 1]), "p1-1-v0-0")
    assert row is not None
    assert row.values["description"] == "a description of 1/1"
    assert b"PNG" in row.image[:8]
    rejects = open_table(Prompts(uri=f"{tmp_path}/rejects"))
    assert rejects.rows == 1

    for variable in (KEY, KMS):
        monkeypatch.delenv(variable, raising=False)
    said = f"is encrypted: set {KEY} to its key"
    with pytest.raises(UserError, match=said):
        find_row(store, "parquet", read_records(store, [0, 1]), "p1-1-v0-0")
    with pytest.raises(UserError, match=said):
        open_table(Prompts(uri=f"{tmp_path}/rejects"))
    with pytest.raises(UserError, match="--deep needs"):
        verify(store, deep=True, quiet=True)
    describe_again(store)  # shows no row, so it needs no key
    monkeypatch.setenv(KEY, b64(OTHER))
    with pytest.raises(UserError, match="encrypted with another key"):
        find_row(store, "parquet", read_records(store, [0, 1]), "p1-1-v0-0")


def test_without_the_key_verify_compares_digests_and_a_repair_moves_nothing_that_it_cannot_judge(tmp_path, monkeypatch):
    unlock(monkeypatch, OWN)
    store, _ = make_sound_output(tmp_path, "parquet", encryption=ParquetEncryption())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for keys in ("", b64(OTHER)):
        monkeypatch.setenv(KEY, keys)
        report = verify(store, repair=True, quiet=True)
        assert (report.sound, report.opened) == (True, False)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    data, record = tmp_path / "data/shard-000001.parquet", tmp_path / record_name(2)
    kept = data.read_bytes()
    data.write_bytes(kept[:-9] + b"123456789")
    record.write_text("no record")
    report = verify(store, quiet=True)
    assert [(one.kind, one.shard, one.mend) for one in report.findings] == [
        ("damaged", 1, "remake"),
        ("record_damaged", 2, "none"),
    ]
    data.write_bytes(kept)
    monkeypatch.setenv(KEY, b64(OWN))
    assert verify(store, repair=True, quiet=True).rewritten == [2]
    assert verify(store, quiet=True).sound


def test_of_two_writers_the_first_object_is_the_shard_and_its_record_describes_it(tmp_path, monkeypatch):
    unlock(monkeypatch, OWN)
    store, committer = make_sound_output(tmp_path, "parquet", shards=2, encryption=ParquetEncryption())
    first = read_records(store, [1])[0]
    store.remove(record_name(1))  # the first writer died between its data and its record
    found = committer.commit(shard_result(1))
    assert found.adopted
    assert found.record == first
    (orphan,) = verify(store, quiet=True).findings  # the second writer's rejects: other bytes, so another name
    assert (orphan.kind, orphan.mend) == ("orphan", "collect")
    # Whoever has only a later key adopts nothing that it cannot read.
    store.remove(record_name(1))
    monkeypatch.setenv(KEY, b64(OTHER))
    with pytest.raises(UserError, match="encrypted with another key"):
        ShardCommitter(store, "parquet", first["fingerprint"], ParquetEncryption()).commit(shard_result(1))


def test_a_whole_file_is_what_duckdb_and_pyarrow_read(tmp_path, monkeypatch):
    unlock(monkeypatch, OWN)
    make_sound_output(tmp_path, "parquet", shards=1, encryption=ParquetEncryption())
    path = tmp_path / "data/shard-000000.parquet"
    table = pq.read_table(path, decryption_properties=pe.create_decryption_properties(OWN))
    session = duckdb.connect()
    session.sql(f"PRAGMA add_parquet_key('k', '{b64(OWN)}')")
    query = f"select id, description, image.bytes from read_parquet('{path}', encryption_config = {{footer_key: 'k'}})"
    assert session.sql(query).fetchall() == [
        (row["id"], row["description"], row["image"]["bytes"]) for row in table.to_pylist()
    ]
    assert table.num_rows == 3


def test_of_chosen_columns_the_others_stay_readable_without_a_key(tmp_path, monkeypatch):
    unlock(monkeypatch, OWN)
    make_sound_output(tmp_path, "parquet", shards=2, encryption=ParquetEncryption(TEXTS))
    path = tmp_path / "data/shard-000001.parquet"
    assert pq.read_table(path, columns=["id", "seed"]).num_rows == 2
    assert len(duckdb.sql(f"select id, seed from read_parquet('{path}')").fetchall()) == 2
    with pytest.raises(OSError, match="decrypt"):
        pq.read_table(path, columns=["prompt"])
    assert next(iter((tmp_path / "rejects").iterdir())).read_bytes()[:4] == b"PARE"  # whole: reasons quote rows


class OwnKey(pe.KmsClient):
    """As `docs/privacy.md` has a reader write it, without promptmill."""

    def __init__(self, config: pe.KmsConnectionConfig) -> None:
        super().__init__()

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        raise NotImplementedError

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        return aes_key_unwrap(OWN, base64.b64decode(wrapped_key))


def test_chosen_columns_are_what_pyarrow_alone_reads_with_the_key(tmp_path, monkeypatch):
    unlock(monkeypatch, OWN)
    make_sound_output(tmp_path, "parquet", shards=1, encryption=ParquetEncryption(TEXTS))
    monkeypatch.delenv(KEY)
    opened = pe.CryptoFactory(OwnKey).file_decryption_properties(pe.KmsConnectionConfig())
    table = pq.read_table(tmp_path / "data/shard-000000.parquet", decryption_properties=opened)
    assert table["prompt"].to_pylist() == ["a cat 猫"] * 3
    assert all(image["bytes"].startswith(b"\x89PNG") for image in table["image"].to_pylist())


def test_a_key_that_was_replaced_goes_on_opening_what_it_closed(tmp_path, monkeypatch):
    for number, keys in enumerate([(OWN,), (OTHER, OWN)]):
        monkeypatch.setenv(KEY, b64(*keys))
        for name, encryption in (("whole", ParquetEncryption()), ("columns", ParquetEncryption(("a",)))):
            table = pa.table({"a": [f"secret {number}"]})
            sealed = encryption.properties(table.schema)
            pq.write_table(table, tmp_path / f"{name}-{number}", encryption_properties=sealed)
    for path in sorted(tmp_path.iterdir()):
        with path.open("rb") as stream:
            assert open_parquet(stream, path.name).read()["a"].to_pylist()[0].startswith("secret")
    monkeypatch.setenv(KEY, b64(OWN))
    with (tmp_path / "whole-1").open("rb") as stream, pytest.raises(UserError, match="another key"):
        open_parquet(stream, "whole-1")


@pytest.mark.parametrize("key", ["", b64(OTHER)], ids=["no key", "another"])
def test_a_strangers_table_with_encrypted_columns_is_a_sentence_and_no_end_of_the_process(tmp_path, monkeypatch, key):
    """Arrow ends the process (an exception through `noexcept`) where such a column's metadata is looked at."""
    monkeypatch.setenv(KEY, b64(OWN))
    table = pa.table({"prompt": ["a cat"], "note": ["x"]})
    path = tmp_path / "prompts.parquet"
    sealed = ParquetEncryption(("note",)).properties(table.schema)
    pq.write_table(table, path, encryption_properties=sealed)
    monkeypatch.setenv(KEY, key)
    with pytest.raises(UserError, match="is encrypted"):
        open_table(Prompts(uri=str(path)))
    with path.open("rb") as stream, pytest.raises(UserError, match="is encrypted"):
        PlainParquet(stream, str(path)).read(0, ["prompt"])


@pytest.mark.parametrize(
    ("encryption", "key", "said"),
    [
        (ParquetEncryption(), "", f"needs the environment variable {KEY}"),
        (ParquetEncryption(), "not base64!", "holds no base64"),
        (ParquetEncryption(("age",)), b64(OWN), "no column 'age'"),
        (ParquetEncryption(("prompt",)), b64(OWN), "name both of them or neither"),
        (ParquetEncryption(key_id="m"), "", f"{KMS} must be module:function"),
    ],
    ids=["no key", "no base64", "column", "words", "service"],
)
def test_what_cannot_be_encrypted_is_told_before_any_work(monkeypatch, encryption, key, said):
    monkeypatch.setenv(KEY, key)
    monkeypatch.delenv(KMS, raising=False)
    with pytest.raises(UserError, match=said) as caught:
        encryption.check(["prompt", "description"])
    assert "base64!" not in str(caught.value)


def test_tars_and_image_files_have_no_encryption():
    with pytest.raises(UserError, match="encryption needs format parquet"):
        load_config(SynthesizeConfig, None, ["output.encryption={}", "output.format=webdataset"])


def test_encryption_is_part_of_the_fingerprint_only_where_it_is_asked_for():
    asked = load_config(SynthesizeConfig, None, ["output.encryption={columns: [prompt, description]}"])
    assert asked.identity()["output"]["encryption"] == {"columns": ["prompt", "description"], "key_id": None}
    assert "encryption" not in SynthesizeConfig().identity()["output"]
