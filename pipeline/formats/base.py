"""What every output format offers: build a shard's objects, and read what a data object says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.storage import Store

Json = dict[str, Any]
HEADER_KEY = "promptmill"
"""The name under which a data object carries its header (see `pipeline.commit`)."""


@dataclass(frozen=True)
class ShardImages:
    """The images of a shard in row order.

    Args:
        read: gives the encoded bytes of a row's image, by the row's number.
        extension: of their file names.
        size: bytes of them all; None = not known.
    """

    read: Callable[[int], bytes]
    extension: str
    size: int | None = None


@dataclass(frozen=True)
class Part:
    """An object beside the data object; put before it, under a name that holds its digest."""

    name: str
    data: bytes


class ShardFormat(ABC):
    """One output format. ``rows`` are the output columns without ``image``, which each format lays out its own way."""

    suffix: str

    def data_name(self, shard: int) -> str:
        """The name of a shard's data object under the output's root."""
        return f"data/shard-{shard:06d}{self.suffix}"

    @abstractmethod
    def parts(self, shard: int, rows: pa.Table, images: ShardImages) -> Iterator[Part]:
        """The objects that go before the data object; none for the formats with images inside."""

    @abstractmethod
    def build(
        self, sink: pa.NativeFile, rows: pa.Table, images: ShardImages, header: Json, parts: Sequence[Json]
    ) -> None:
        """Writes the data object, by appending alone; the same arguments give the same bytes."""

    @abstractmethod
    def read_header(self, store: Store, name: str) -> dict[str, Any] | None:
        """The header inside an existing data object; None where there is no such object or it holds none."""

    @abstractmethod
    def read_schema(self, store: Store, name: str) -> pa.Schema | None:
        """The columns of an existing data object with their Arrow types; None as for the header."""
