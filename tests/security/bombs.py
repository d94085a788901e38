"""Small files that ask for a lot: each function returns the bytes of one."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def small(kind: str) -> bytes:
    """A sound picture of a few pixels in another of Pillow's formats."""
    sink = io.BytesIO()
    Image.new("RGB", (16, 16)).save(sink, kind)
    return sink.getvalue()


def huge_png(side: int = 65_000) -> bytes:
    """A whole-looking PNG of 65,000 x 65,000 pixels: 12 GB when decoded."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + _chunk(
        b"IEND", b""
    )  # fmt: skip


def text_png() -> bytes:
    """A small PNG with a compressed comment of half a gigabyte before its pixels."""
    sink = io.BytesIO()
    Image.new("RGB", (8, 8)).save(sink, "PNG")
    packer = zlib.compressobj(9)
    comment = b"".join([packer.compress(b"\0" * (1 << 20)) for _ in range(512)]) + packer.flush()
    whole = sink.getvalue()
    return whole[:33] + _chunk(b"zTXt", b"Comment\0\0" + comment) + whole[33:]


def huge_tiff(side: int = 65_000) -> bytes:
    """A TIFF whose header promises as many pixels."""
    sink = io.BytesIO()
    Image.new("RGB", (1, 1)).save(sink, "TIFF")
    data = bytearray(sink.getvalue())
    (start,) = struct.unpack_from("<I", data, 4)
    for number in range(struct.unpack_from("<H", data, start)[0]):
        at = start + 2 + 12 * number
        if struct.unpack_from("<H", data, at)[0] in (256, 257):
            struct.pack_into("<HII", data, at + 2, 4, 1, side)
    return bytes(data)


def dictionary_parquet(column: str, rows: int = 1_000_000, size: int = 1 << 20, **others: str) -> bytes:
    """A Parquet file of which one column is a megabyte, a million times by reference: a terabyte in a few kilobytes."""
    value = pa.DictionaryArray.from_arrays(pa.array([0]).cast(pa.int32()), pa.array(["x" * size]))
    one = pa.array([0] * rows, pa.int32())
    columns = {column: pa.DictionaryArray.from_arrays(one, value.dictionary)}
    for name, text in others.items():
        columns[name] = pa.DictionaryArray.from_arrays(one, pa.array([text]))
    sink = io.BytesIO()
    pq.write_table(
        pa.table(columns), sink, compression="zstd", store_schema=False, dictionary_pagesize_limit=2 * size,
        row_group_size=rows,
    )  # fmt: skip
    return sink.getvalue()


def zeros_parquet(column: str, gigabytes: int = 3) -> bytes:
    """A Parquet file of a cell that is nothing but zeros, packed."""
    cell = pa.array([b"\0" * (1 << 30)], pa.binary())
    table = pa.table({column: pa.chunked_array([cell] * gigabytes)})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_statistics=False)
    return sink.getvalue()


def cells_parquet(column: str, cells: int = 20, size: int = 100 << 20, **others: str) -> bytes:
    """A Parquet file of cells of 100 MB each, two GB in all, packed to almost nothing."""
    cell = pa.array(["x" * size], pa.large_string())
    columns = {column: pa.chunked_array([cell] * cells)}
    columns |= {name: pa.chunked_array([pa.array([text])] * cells) for name, text in others.items()}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd", use_dictionary=False, write_statistics=False)
    return sink.getvalue()


def nested_parquet(depth: int = 60) -> bytes:
    """A Parquet file one of whose columns is a list of lists of lists ..."""
    value: object = "a"
    kind = pa.string()
    for _ in range(depth):
        value, kind = [value], pa.list_(kind)
    sink = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["a cat"], "deep": pa.array([value], kind)}), sink)
    return sink.getvalue()


def long_line(size: int = 100 << 20) -> bytes:
    """A line of JSON that is 100 MB long."""
    return b'{"file_name":"a.png","text":"' + b"x" * size + b'"}\n'


def nested_lines(depth: int = 200_000) -> bytes:
    """A line of JSON that is nested so deeply that Arrow's own parser dies of it."""
    return b'{"file_name":"a.png","text":"a","x":' + b"[" * depth + b"]" * depth + b"}\n"


def sparse_tar() -> bytes:
    """A tar of 1 KB whose picture unpacks to a terabyte of zeros."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.png")
        member.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(1 << 40),
                              "GNU.sparse.numblocks": "1", "GNU.sparse.map": f"{1 << 40},0"}  # fmt: skip
        tar.addfile(member)
    return sink.getvalue()


def nested_tar(depth: int = 200_000) -> bytes:
    """A tar whose row is JSON nested too deeply."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, data in (("a.png", b"x"), ("a.json", b"[" * depth + b"]" * depth)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()
