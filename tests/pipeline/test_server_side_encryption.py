"""What S3 is told of encryption, seen on the wire before a real server; keys stay in the environment."""

from __future__ import annotations

import base64
import hashlib
import pickle
import secrets

import pytest

from actors.errors import UserError
from pipeline.arrow_place import arrow_filesystem
from pipeline.checkpoint_store import CheckpointStore
from pipeline.commit import read_records
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.describe import describe_again
from pipeline.prompts import open_fs
from pipeline.quarantine import quarantine
from pipeline.server_side_encryption import fsspec_options, with_sse
from pipeline.storage import Store
from pipeline.verify import verify
from tests.conftest import _program
from tests.faults.proxy import FaultProxy, Request
from tests.pipeline.sound_outputs import make_sound_output

PART = 5 << 20
KEY = secrets.token_bytes(32)
_CUSTOMER = {
    "x-amz-server-side-encryption-customer-algorithm": "AES256",
    "x-amz-server-side-encryption-customer-key": base64.b64encode(KEY).decode(),
    "x-amz-server-side-encryption-customer-key-md5": base64.b64encode(hashlib.md5(KEY).digest()).decode(),
}


class Wire:
    """A proxy that writes down of each request what it is and what it says of encryption."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        proxy.reset(self.note)

    def note(self, request: Request) -> None:
        lines = [line.partition(":") for line in request.head.decode().split("\r\n")[1:]]
        told = {name.strip().lower(): value.strip() for name, _, value in lines}
        query = request.target.partition("?")[2]
        kind = next((mark for mark in ("uploads", "partNumber", "uploadId", "list-type") if mark in query), "object")
        self.seen.append((f"{request.method} {kind}", {n: v for n, v in told.items() if "server-side-encryption" in n}))

    def of(self, kind: str) -> list[dict[str, str]]:
        return [told for seen, told in self.seen if seen == kind]


@pytest.fixture
def proxied(s3_server, s3_bucket, monkeypatch):
    with FaultProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        monkeypatch.setenv("PM_TEST_SSE", base64.b64encode(KEY).decode())
        yield s3_bucket, Wire(proxy)


def test_a_customers_key_goes_with_every_request_that_writes_or_reads(proxied, tmp_path):
    bucket, wire = proxied
    store = Store(f"{bucket}/out", with_sse({}, "SSE-C:env:PM_TEST_SSE"))
    store.probe()
    make_sound_output(store, "parquet", shards=1)
    assert verify(store, deep=True, quiet=True).sound
    describe_again(store)
    large = tmp_path / "large"
    large.write_bytes(bytes(2 * PART))
    store.fs.put_file(str(large), store.path("large"), mode="create", chunksize=PART)
    assert store.sha256("large") == (hashlib.sha256(large.read_bytes()).hexdigest(), 2 * PART)
    assert quarantine(store, "large") is not None
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/weights").write_bytes(b"w")
    CheckpointStore(store, 1, print).put(tmp_path / "checkpoint", "play", (0, 1), None)
    # A table on the same place is read with the key too.
    assert open_fs(f"{bucket}/out", with_sse({}, "SSE-C:env:PM_TEST_SSE")).cat_file(store.path("README.md"))
    for kind in ("PUT object", "GET object", "HEAD object", "POST uploads", "PUT partNumber"):
        told = wire.of(kind)
        assert told, kind
        assert all(headers == _CUSTOMER for headers in told), kind


@pytest.mark.parametrize("way", ["put", "multipart"])
@pytest.mark.parametrize(
    ("sse", "expected"),
    [
        ("SSE-KMS", {"x-amz-server-side-encryption": "aws:kms"}),
        (
            "SSE-KMS:arn:aws:kms:eu-west-1:1:key/k",
            {
                "x-amz-server-side-encryption": "aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:eu-west-1:1:key/k",
            },
        ),
        ("SSE-S3", {"x-amz-server-side-encryption": "AES256"}),
    ],
)
def test_a_store_that_has_no_such_encryption_is_named_with_what_was_asked(proxied, sse, expected, way):
    """This server has no key service: it refuses what it would have to keep in the clear."""
    bucket, wire = proxied
    store = Store(f"{bucket}/out", with_sse({}, sse))
    if way == "put":
        with pytest.raises(UserError, match=rf"501 NotImplemented \(sse={sse.split(':')[0]} was asked for: does this"):
            store.create("a", b"a")
    else:
        with pytest.raises(OSError):
            store.fs.pipe_file(store.path("a"), bytes(2 * PART), chunksize=PART, mode="create")
    assert wire.of("PUT object" if way == "put" else "POST uploads") == [expected]
    assert store.list("") == []


def test_a_server_that_encrypts_takes_sse_s3(monkeypatch, s3_bucket, tmp_path):
    """Swift with its own encryption; it refuses the header where it is off, as above."""
    with _program("infra/object-store/swift_s3.py").SwiftS3(encryption=True) as server:
        for name, value in server.environ().items():
            monkeypatch.setenv(name, value)
        server.create_bucket("kept")
        own = {"client_kwargs": {"endpoint_url": server.endpoint}}
        store = Store("s3://kept/out", with_sse(own, "SSE-S3"))
        store.probe()
        make_sound_output(store, "files", shards=1)
        data = read_records(store, [0])[0]["parts"][0]
        assert store.sha256(data["name"]) == (data["sha256"], data["size"])
        assert verify(store, deep=True, quiet=True).sound
        kept = b"".join(path.read_bytes() for path in server.directory.rglob("*.data"))
        assert len(kept) > data["size"]
        assert (store.read(data["name"]) or b"?") not in kept


def test_a_key_is_read_where_it_is_used_and_travels_nowhere(monkeypatch):
    monkeypatch.setenv("PM_TEST_SSE", base64.b64encode(KEY).decode())
    store = Store("s3://bucket/out", with_sse({}, "SSE-C:env:PM_TEST_SSE"))
    for carried in (store, arrow_filesystem(store)):
        sent = pickle.dumps(carried)
        assert KEY not in sent
        assert base64.b64encode(KEY) not in sent
        pickle.loads(sent)
        monkeypatch.delenv("PM_TEST_SSE")
        with pytest.raises(UserError, match="variable PM_TEST_SSE, which is not set here"):
            pickle.loads(sent)
        monkeypatch.setenv("PM_TEST_SSE", base64.b64encode(KEY).decode())


@pytest.mark.parametrize(
    ("uri", "sse", "value", "said"),
    [
        ("/out", "SSE-S3", "", "for s3:// places alone"),
        ("s3://b/o", "SSE-C:env:PM_TEST_SSE", "not base64!", "holds no base64"),
        ("s3://b/o", "SSE-C:env:PM_TEST_SSE", base64.b64encode(b"short").decode(), "holds 5 bytes, not 32"),
        ("s3://b/o", "SSE-C:env:PM_TEST_SSE", "", "is not set here"),
    ],
)
def test_what_does_not_fit_is_a_sentence(monkeypatch, uri, sse, value, said):
    monkeypatch.setenv("PM_TEST_SSE", value)
    with pytest.raises(UserError, match=said) as caught:
        fsspec_options(uri, with_sse({}, sse))
    assert not value or value not in str(caught.value)


def test_a_customers_key_is_not_sent_in_the_clear(monkeypatch):
    monkeypatch.setenv("PM_TEST_SSE", base64.b64encode(KEY).decode())
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://store.example:9000")
    with pytest.raises(UserError, match="by plain http: use https"):
        Store("s3://b/o", with_sse({}, "SSE-C:env:PM_TEST_SSE"))


@pytest.mark.parametrize(
    "word",
    ["AES256", "SSE-S3:x", "SSE-KMS:", "SSE-C", f"SSE-C:{base64.b64encode(KEY).decode()}"],
    ids=["no-kind", "s3-with-word", "kms-without-key", "c-without-key", "c-with-the-key-itself"],
)
def test_a_word_that_is_none_is_refused_before_ray_starts_and_a_key_is_not_quoted(word):
    with pytest.raises(UserError, match=r"storage\.sse") as caught:
        load_config(SynthesizeConfig, None, [f"storage.sse={word}"])
    assert base64.b64encode(KEY).decode() not in str(caught.value)


def test_encryption_is_no_part_of_the_fingerprint():
    plain, asked = SynthesizeConfig(), load_config(SynthesizeConfig, None, ["storage.sse=SSE-KMS:abc"])
    assert asked.storage.sse == "SSE-KMS:abc"
    assert asked.identity() == plain.identity()
