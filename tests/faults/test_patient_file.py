"""Files of a store that are read for minutes: what is cut half way is asked for again, piece by piece."""

from __future__ import annotations

import io
import tarfile
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.errors import JobError, UserError
from pipeline import image_uris
from pipeline.image_uris import ImagePlaces
from pipeline.retry import RetryPolicy
from pipeline.storage import Store
from tests.faults.proxy import FaultProxy, Request

BLOCK = 1 << 16
DATA = np.random.default_rng(0).bytes(5 * BLOCK + 123)


@pytest.fixture
def cut(s3_server, s3_bucket):
    """A store behind a proxy that cuts the reply of two requests out of three, and the bucket's own store."""

    def plan(request: Request) -> str | None:
        faults = ("cut reply", "drop reply", None)
        return faults[request.number % 3]

    with FaultProxy(s3_server.endpoint) as proxy:
        proxy.reset(plan)
        options = {"endpoint_url": proxy.endpoint}
        yield Store(f"{s3_bucket}/out", options, attempts=12, max_backoff=0.01), Store(f"{s3_bucket}/out"), proxy


def test_a_tar_and_a_parquet_file_are_read_over_a_connection_that_is_cut_again_and_again(cut):
    store, direct, proxy = cut
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for number in range(3):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(DATA)
            tar.addfile(member, io.BytesIO(DATA))
    direct.create("a.tar", sink.getvalue())
    with store.open("a.tar", BLOCK) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        assert [tar.extractfile(member).read() == DATA for member in tar] == [True] * 3
    table = pa.table({"image": [DATA, DATA[::-1], b""], "id": ["a", "b", "c"]})
    with pa.BufferOutputStream() as sink:
        pq.write_table(table, sink, row_group_size=1)
        direct.create("a.parquet", sink.getvalue().to_pybytes())
    with store.open("a.parquet", BLOCK) as stream:
        assert pq.ParquetFile(stream).read().equals(table)
    assert len(proxy.injected) > 20


def test_any_piece_is_the_one_of_the_object(cut):
    store, direct, _ = cut
    direct.create("x", DATA)
    chance = np.random.default_rng(1)
    with store.open("x", 4096) as stream:
        assert (stream.seekable(), stream.readable(), stream.writable()) == (True, True, False)
        for start, length in chance.integers(0, [len(DATA) + 10, 3 * BLOCK], (8, 2)):
            assert stream.seek(start) == start
            assert stream.read(length) == DATA[start : start + length]
        assert stream.seek(-5, io.SEEK_END) == len(DATA) - 5
        assert stream.read() == DATA[-5:]
        assert stream.read() == b""
        stream.seek(2)
        assert stream.seek(3, io.SEEK_CUR) == 5


@pytest.mark.usefixtures("hasty_s3fs")
def test_what_stays_broken_or_is_replaced_meanwhile_ends_in_a_sentence(cut, s3_server, s3_bucket):
    _, direct, proxy = cut
    direct.create("x", DATA)
    proxy.reset()
    store = Store(f"{s3_bucket}/out", {"endpoint_url": proxy.endpoint}, attempts=2, max_backoff=0.01)
    with store.open("x", 4096) as stream:
        assert stream.read(10) == DATA[:10]
        proxy.reset(lambda request: "drop before")
        stream.seek(3 * BLOCK)
        with pytest.raises(JobError, match=r"cannot read 's3://.*/out/x': .* after 2 tries"):
            stream.read(10)
        proxy.reset()
        assert stream.read(10) == DATA[3 * BLOCK : 3 * BLOCK + 10]
        direct.replace("x", DATA[::-1])
        stream.seek(0)
        with pytest.raises(UserError, match=r"cannot read 's3://.*/out/x'"):
            stream.read(4 * BLOCK)


def test_a_picture_of_a_table_is_asked_for_again_and_no_outage_makes_it_a_reject(cut, s3_bucket, monkeypatch):
    store, direct, proxy = cut
    direct.create("pictures/one.png", DATA)
    places = ImagePlaces(f"{s3_bucket}/in/rows.parquet", (f"{s3_bucket}/out/",), "prompts.image_uris", store.options)
    uri = f"{s3_bucket}/out/pictures/one.png"
    assert places.read(uri, f"{s3_bucket}/in") == DATA
    assert proxy.injected
    with pytest.raises(FileNotFoundError):
        places.read(f"{s3_bucket}/out/pictures/none.png", f"{s3_bucket}/in")
    monkeypatch.setattr(image_uris, "RetryPolicy", partial(RetryPolicy, attempts=2, max_backoff=0.01))
    proxy.reset(lambda request: "503")
    with pytest.raises(JobError, match=r"the picture 's3://.*/one.png' cannot be read now: .*; run again to resume"):
        places.read(uri, f"{s3_bucket}/in")
