"""A GGUF file's header walked with a ruler: every count and length must fit into the file before a reader trusts it.

The `gguf` package takes what lies beyond the end of the file for empty values: a header of a hundred bytes that claims
2**60 of them keeps it busy, and eating memory, for ever.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of each scalar type, by its number in the format."""
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 8
_DEEPEST = 4


def check_gguf(path: Path) -> None:
    """Raises `ValueError` for a file that is no GGUF, or whose header claims more than the file holds."""
    if path.stat().st_size < 24:
        raise ValueError("it is too short for a GGUF file")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _Walk(data).header()


class _Walk:
    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0

    def header(self) -> None:
        if self._data[:4] != b"GGUF":
            raise ValueError("it is no GGUF file")
        self._skip(4)
        version, tensors, pairs = self._number("<I"), self._number("<Q"), self._number("<Q")
        if version not in (2, 3):
            raise ValueError(f"GGUF of version {version} is not read, or it is big-endian")
        self._fits(pairs, 8 + 4 + 1, "keys")
        for _ in range(pairs):
            self._string()
            self._value(self._number("<I"), 0)
        self._fits(tensors, 8 + 4 + 4 + 8, "tensors")
        for _ in range(tensors):
            self._string()
            dimensions = self._number("<I")
            if dimensions > _MOST_DIMENSIONS:
                raise ValueError(f"a tensor of its header has {dimensions} dimensions")
            self._skip(8 * dimensions + 4 + 8)

    def _value(self, kind: int, depth: int) -> None:
        if kind in _SIZES:
            self._skip(_SIZES[kind])
        elif kind == _STRING:
            self._string()
        elif kind == _ARRAY and depth < _DEEPEST:
            inner, count = self._number("<I"), self._number("<Q")
            self._fits(count, _SIZES.get(inner, 8), "values of an array")
            if inner in _SIZES:
                self._skip(_SIZES[inner] * count)
            else:
                for _ in range(count):
                    self._value(inner, depth + 1)
        else:
            raise ValueError(f"its header has a value of unknown type {kind}, or arrays nested too deeply")

    def _string(self) -> None:
        self._skip(self._number("<Q"))

    def _number(self, form: str) -> int:
        at = self._at
        self._skip(struct.calcsize(form))
        number: int = struct.unpack_from(form, self._data, at)[0]
        return number

    def _fits(self, count: int, size: int, what: str) -> None:
        if count * size > len(self._data) - self._at:
            raise ValueError(f"its header claims {count} {what}, which the file is too short for")

    def _skip(self, size: int) -> None:
        if size > len(self._data) - self._at:
            raise ValueError("its header ends beyond the end of the file")
        self._at += size
