"""What a real S3 server and s3fs do, where our promises rest on it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import s3fs
from botocore.exceptions import ClientError, NoCredentialsError

from pipeline.storage import Store

PART = 5 * 2**20  # the least that S3 takes as a part that is not the last


def client(**options):
    return s3fs.S3FileSystem(skip_instance_cache=True, **options)


def code(error: BaseException) -> str:
    assert isinstance(error.__cause__, ClientError), repr(error)
    return error.__cause__.response["Error"]["Code"]


def assert_taken(error: BaseException) -> None:
    """AWS names the condition that failed, and s3fs says FileExistsError; Swift does not, and s3fs says EINVAL."""
    assert isinstance(error, OSError)
    assert code(error) == "PreconditionFailed"
    assert error.__cause__.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert isinstance(error, FileExistsError) or error.errno == 22


def uploads(server, bucket: str) -> list:
    return server.client().list_multipart_uploads(Bucket=bucket.removeprefix("s3://")).get("Uploads", [])


def test_put_get_list_delete(s3_bucket):
    fs = client()
    fs.pipe_file(f"{s3_bucket}/data/one", b"1")
    fs.pipe_file(f"{s3_bucket}/data/deep/一只猫 🐈.txt", b"22")
    assert fs.cat_file(f"{s3_bucket}/data/one") == b"1"
    bucket = s3_bucket.removeprefix("s3://")
    assert fs.find(bucket) == [f"{bucket}/data/deep/一只猫 🐈.txt", f"{bucket}/data/one"]
    assert fs.ls(f"{bucket}/data", detail=False) == [f"{bucket}/data/deep", f"{bucket}/data/one"]
    fs.rm_file(f"{s3_bucket}/data/one")
    fs.rm_file(f"{s3_bucket}/data/one")  # what is gone already is no error
    with pytest.raises(FileNotFoundError):
        fs.cat_file(f"{s3_bucket}/data/one")


def test_a_listing_knows_every_put_that_came_before_it(s3_bucket):
    fs = client(use_listings_cache=False)
    for i in range(20):
        fs.pipe_file(f"{s3_bucket}/k{i:02}", b"")
        assert len(fs.find(s3_bucket)) == i + 1


def test_our_store_reads_what_others_put_after_it_listed(s3_bucket, monkeypatch):
    """s3fs keeps listings and looks into them before it reads: a record that came later is missed, a larger one cut."""
    other = client()
    other.pipe_file(f"{s3_bucket}/out/kept/grown", b"1" * 9)
    store = Store(f"{s3_bucket}/out", {"default_block_size": 4})
    # Forgetting alone is not enough: another thread may list again just before the read.
    monkeypatch.setattr(store.fs, "invalidate_cache", lambda path=None: None)
    assert [entry.name for entry in store.list("kept")] == ["kept/grown"]
    for name, data in (("kept/grown", b"2" * 100), ("kept/new", b"3" * 101)):
        other.pipe_file(f"{s3_bucket}/out/{name}", data)
        assert store.read(name) == data
        assert store.size(name) == len(data)
        assert store.sha256(name) == (hashlib.sha256(data).hexdigest(), len(data))
        with store.open(name) as stream:
            assert stream.read() == data
    assert [entry.size for entry in store.list("kept")] == [100, 101]
    assert store.read("kept/none") is None
    assert store.open("kept/none") is None


def test_create_leaves_what_is_there(s3_bucket):
    fs, path = client(), f"{s3_bucket}/record.json"
    fs.pipe_file(path, b"first", mode="create")
    with pytest.raises(OSError) as caught:
        fs.pipe_file(path, b"second", mode="create")
    assert_taken(caught.value)
    assert fs.cat_file(path) == b"first"


@pytest.mark.parametrize("way", ["pipe", "put", "open"])
def test_multipart_create_leaves_what_is_there_and_no_parts(s3_bucket, s3_server, tmp_path, way):
    fs, path = client(), f"{s3_bucket}/shard.tar"
    first, second = os.urandom(2 * PART + 7), os.urandom(3 * PART)

    def create(data: bytes) -> None:
        if way == "pipe":
            fs.pipe_file(path, data, mode="create", chunksize=PART)
        elif way == "put":
            (tmp_path / "shard").write_bytes(data)
            fs.put_file(str(tmp_path / "shard"), path, mode="create", chunksize=PART)
        else:
            with fs.open(path, "xb", block_size=PART) as file:
                file.write(data)

    create(first)
    assert fs.info(path)["ETag"].partition("-")[2]  # an upload in parts
    with pytest.raises(OSError) as caught:
        create(second)
    assert_taken(caught.value)
    assert caught.value.__cause__.operation_name == "CompleteMultipartUpload"
    assert fs.cat_file(path) == first
    if way != "open":  # a streamed upload that s3fs could not complete leaves its parts to the bucket's lifecycle rules
        assert uploads(s3_server, s3_bucket) == []


@pytest.mark.parametrize("options", [{}, {"chunksize": PART}], ids=["whole", "multipart"])
def test_of_many_creators_at_once_one_wins(s3_bucket, options):
    path, bodies = f"{s3_bucket}/contested", [bytes([i]) * (2 * PART) for i in range(4)]
    clients = [client() for _ in bodies]
    for fs in clients:
        assert not fs.exists(path)  # connected, before the race
    start, wins, errors = threading.Barrier(len(bodies)), [], []

    def create(i: int) -> None:
        start.wait()
        try:
            clients[i].pipe_file(path, bodies[i], mode="create", **options)
        except OSError as error:
            errors.append(error)
        else:
            wins.append(i)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1, errors
    for error in errors:
        assert_taken(error)
    assert clients[0].cat_file(path) == bodies[wins[0]]


@pytest.mark.parametrize("options", [{}, {"chunksize": PART}], ids=["whole", "multipart"])
def test_metadata_stays_with_the_object(s3_bucket, options):
    fs, path = client(), f"{s3_bucket}/shard.parquet"
    metadata = {"fingerprint": "f" * 64, "rejects": "0" * 64, "shard": "42"}
    fs.pipe_file(path, bytes(2 * PART), mode="create", Metadata=metadata, **options)
    assert client().metadata(path) == metadata


@pytest.mark.parametrize(
    "environment",
    [{"AWS_SECRET_ACCESS_KEY": "wrong"}, {"AWS_ACCESS_KEY_ID": "promptmill:nobody"}, {"AWS_ACCESS_KEY_ID": "AKIAX"}],
    ids=["secret", "user", "account"],
)
def test_wrong_credentials_are_a_permission_error(s3_bucket, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    fs, path = client(), f"{s3_bucket}/x"
    for request in (
        lambda: fs.pipe_file(path, b"x", mode="create"),
        lambda: fs.pipe_file(path, bytes(2 * PART), mode="create", chunksize=PART),
        lambda: fs.cat_file(path),
        lambda: fs.exists(path),
        lambda: fs.find(s3_bucket),
    ):
        with pytest.raises(PermissionError) as caught:
            request()
        assert code(caught.value) in {"SignatureDoesNotMatch", "403"}


def test_no_credentials_are_no_oserror(s3_bucket, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(NoCredentialsError):
        client().cat_file(f"{s3_bucket}/x")


def test_no_such_bucket_is_a_file_not_found_error(s3_bucket):
    fs, path = client(), "s3://test-no-such-bucket/x"
    for request in (
        lambda: fs.pipe_file(path, b"x", mode="create"),
        lambda: fs.pipe_file(path, bytes(2 * PART), mode="create", chunksize=PART),
        lambda: fs.cat_file(path),
        lambda: fs.find("s3://test-no-such-bucket"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            request()
        assert code(caught.value) == "NoSuchBucket"
    assert not fs.exists(path)


def test_pyarrow_needs_no_option_either(s3_bucket):
    from pyarrow.fs import FileSystem

    fs, path = FileSystem.from_uri(f"{s3_bucket}/from-arrow")
    with fs.open_output_stream(path) as file:
        file.write(b"arrow")
    assert client().cat_file(path) == b"arrow"


def test_a_port_that_is_taken_is_said_so(s3_server, tmp_path):
    port = int(s3_server.endpoint.rsplit(":", 1)[1])
    with pytest.raises(RuntimeError, match=f"Could not bind to 127.0.0.1:{port}"):
        type(s3_server)(tmp_path, port=port).start()


PROGRAM = Path(__file__).parents[2] / "infra" / "object-store" / "swift_s3.py"


def start_program(*arguments: str) -> tuple[subprocess.Popen, dict[str, str]]:
    # A shell's background jobs ignore Ctrl-C, and so would what the suite starts from there.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen([sys.executable, PROGRAM, "--port", "0", *arguments], stdout=subprocess.PIPE, text=True)
    environ = {}
    for line in process.stdout:
        if line.startswith("export "):
            name, value = line.removeprefix("export ").strip().split("=", 1)
            environ[name] = value.strip("'")
        if line.startswith("Ctrl-C"):
            break
    return process, environ


@contextlib.contextmanager
def ended(process: subprocess.Popen) -> Iterator[None]:
    """Ends the program where the test fails: leaving a `Popen` waits for it, however long it lives."""
    with process:
        try:
            yield
        except BaseException:
            process.kill()
            raise


def connect(environ: dict[str, str]) -> s3fs.S3FileSystem:
    return client(
        key=environ["AWS_ACCESS_KEY_ID"],
        secret=environ["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=environ["AWS_ENDPOINT_URL"],
    )


def test_the_program_keeps_a_directory_from_one_start_to_the_next(tmp_path):
    for round_ in range(2):
        process, environ = start_program("--dir", str(tmp_path), "--bucket", "kept")
        with ended(process):
            fs = connect(environ)
            if round_ == 0:
                fs.pipe_file("kept/x", bytes(2 * PART), chunksize=PART, Metadata={"a": "b"})
            assert fs.cat_file("kept/x") == bytes(2 * PART)
            assert fs.metadata("kept/x") == {"a": "b"}
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0


def listens(endpoint: str) -> bool:
    address = urlsplit(endpoint)
    try:
        socket.create_connection((address.hostname, address.port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_program_leaves_nothing_behind(tmp_path, monkeypatch, how):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process, environ = start_program("--bucket", "gone")
    with ended(process):
        connect(environ).pipe_file("gone/x", b"x")
        process.send_signal(how)
        assert process.wait(30) == {signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}[how]
    deadline = time.monotonic() + 30  # the servers see their parent's end, remove their files and go
    while any(tmp_path.iterdir()) or listens(environ["AWS_ENDPOINT_URL"]):
        assert time.monotonic() < deadline, list(tmp_path.iterdir())
        time.sleep(0.1)
