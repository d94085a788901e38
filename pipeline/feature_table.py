"""The features of a table of images, kept as Parquet beside the evaluation: one part a fragment, reused while they fit.

    features/<set>-<key>/part-000042.parquet     id, prompt_id, text, similarity, ms_ssim, features[, words][, classes]

The key is a hash of what decides the numbers: the table's content and columns, and the model's. A part is written once
(create-only-if-absent), so extraction that was cut off goes on where it stood. Images that have no features (no
picture, not decodable, features that are not finite) are counted in the part's metadata, with the reason and their ids.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from actors.errors import JobError
from pipeline.plain_parquet import refuse_objects
from pipeline.storage import Store

_SKIPPED = b"promptmill_skipped"


@dataclass
class FeatureRows:
    """Rows of one part, by column; ``words`` and ``classes`` have no rows where the model has none.

    Attributes:
        ids, groups, texts: strings; a text is None where nothing is said of the image.
        features: (n, d) float32.
        words: (n, d) float32, NaN where there is no text.
        classes: (n, classes) float32, summing to 1.
        ms_ssim: mean over the pairs of a prompt's first images, at the first of them; else None.
        skipped: id of each image without features, and why.
    """

    ids: list[str]
    groups: list[str]
    texts: list[str | None]
    features: NDArray[np.float32]
    words: NDArray[np.float32]
    classes: NDArray[np.float32]
    ms_ssim: list[float | None]
    skipped: dict[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """As a Parquet file."""
        columns = {
            "id": pa.array(self.ids, pa.string()),
            "prompt_id": pa.array(self.groups, pa.string()),
            "text": pa.array(self.texts, pa.string()),
            "ms_ssim": pa.array(self.ms_ssim, pa.float32()),
        }
        # A part without any image that could be used has no vectors, and so no width of them.
        for name, values in (("features", self.features), ("words", self.words), ("classes", self.classes)):
            if values.shape[1]:
                columns[name] = _lists(values)
        table = pa.table(columns).replace_schema_metadata({_SKIPPED: json.dumps(self.skipped).encode()})
        sink = io.BytesIO()
        pq.write_table(table, sink)
        return sink.getvalue()


@dataclass(frozen=True)
class FeatureTable:
    """The parts of one set of images. ``prefix`` is their directory under the store."""

    store: Store
    prefix: str
    parts: int

    def name(self, part: int) -> str:
        """The object of a part."""
        return f"{self.prefix}/part-{part:06d}.parquet"

    def missing(self) -> list[int]:
        """The parts that are still to be extracted."""
        there = {entry.name for entry in self.store.list(self.prefix)}
        return [part for part in range(self.parts) if self.name(part) not in there]

    def read(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The parts in order, some columns of each (those that it has).

        Raises:
            JobError: a part is gone or damaged.
        """
        for part in range(self.parts):
            data = self.store.read(self.name(part))
            try:
                if data is None:
                    raise FileNotFoundError(self.name(part))
                file = pq.ParquetFile(io.BytesIO(data))
                names = [name for name in file.schema_arrow.names if columns is None or name in columns]
                for name in names:
                    refuse_objects(file.schema_arrow.field(name), self.store.public(self.name(part)))
                yield file.read(names)
            except (OSError, pa.ArrowInvalid) as error:
                raise JobError(
                    f"features '{self.store.public(self.name(part))}' cannot be read ({type(error).__name__}): delete "
                    "their directory and evaluate again"
                ) from error

    def skipped(self) -> dict[str, int]:
        """How many images have no features, by reason."""
        counts: dict[str, int] = {}
        for table in self.read(["id"]):
            for reason in json.loads((table.schema.metadata or {}).get(_SKIPPED, b"{}")).values():
                counts[reason] = counts.get(reason, 0) + 1
        return counts


def matrix(table: pa.Table, column: str) -> NDArray[np.float32]:
    """A column of vectors as (n, d)."""
    values = table[column].combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = values.chunk(0)
    found: NDArray[np.float32] = values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)
    return found


def features_key(*parts: object) -> str:
    """A short hash of what decides the numbers."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _lists(values: NDArray[np.float32]) -> pa.FixedSizeListArray:
    flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1), pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
