"""What the dataset card and the report tell of an output, gathered from its run record and its commit records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.formats import FORMATS
from pipeline.storage import Store
from pipeline.summary import Totals

SERVED = "endpoint:"
"""Before a model's name, in the place of its hash: nobody can hash what an endpoint serves."""

_EXTENSIONS = {"png": "png", "jpeg": "jpg", "webp": "webp"}


@dataclass(frozen=True)
class Model:
    """One model of the run: what it does, its URI as far as it may be published, and the SHA-256 of its files.

    ``sha256`` of a model that an endpoint served says so.
    """

    stage: str
    uri: str
    sha256: str


@dataclass(frozen=True)
class Facts:
    """All that card and report are made from; nothing here depends on when, where or how fast the run went.

    Args:
        run: the run record as stored.
        totals: sums over the commit records.
        schema: columns of the data objects, without metadata; None while there is no shard.
        title: of the dataset.
        license: identifier as the Hub names it.
        languages: of the prompts, ISO 639 codes; empty where nobody said.
    """

    run: dict[str, Any]
    totals: Totals
    schema: pa.Schema | None
    title: str
    license: str
    languages: Sequence[str] = ()

    @property
    def config(self) -> dict[str, Any]:
        """The options that decide the bytes of the dataset."""
        config: dict[str, Any] = self.run["identity"]["config"]
        return config

    @property
    def encrypted(self) -> bool:
        """Whether rows are: then nothing of them is shown."""
        return self.config["output"].get("encryption") is not None

    @property
    def fingerprint(self) -> str:
        """Hash of everything that determines the output."""
        return str(self.run["fingerprint"])

    @property
    def output_format(self) -> str:
        """``parquet``, ``webdataset`` or ``files``."""
        return str(self.config["output"]["format"])

    @property
    def extension(self) -> str:
        """The extension of an image's file name."""
        return _EXTENSIONS[self.config["output"]["image"]["encoding"]]

    @property
    def rows_in(self) -> int:
        """Rows of the prompt table that the run is about."""
        return int(self.run["identity"]["table"]["rows"])

    @property
    def rows_missing(self) -> int:
        """Rows that no committed shard accounts for: above 0 while the run is unfinished."""
        return max(0, self.rows_in - self.totals.planned)

    @property
    def carried(self) -> list[str]:
        """Columns of the prompt table that went into the output untouched."""
        return list(self.run["columns"]["carried"])

    @property
    def recipes(self) -> dict[str, str]:
        """The full text of each recipe that the run could use, by name."""
        return dict(self.run["identity"]["recipes"])

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the packages that decide bytes."""
        return {name: version for name, version in self.run["versions"].items() if version}

    @property
    def models(self) -> list[Model]:
        """The models of the run, in the order of the stages."""
        hashes, places = self.run["identity"]["models"], self.run["models"]
        loras = sorted(name for name in hashes if name.startswith("generate_lora"))
        stages = {
            "expand": "language model", "expand_lora": "its adapter", "generate": "image model",
            "generate_controlnet": "its ControlNet", **dict.fromkeys(loras, "its adapter"), "select": "scorer",
        }  # fmt: skip
        # Outputs of earlier versions have an adapter's hash alone.
        return [
            Model(does, _publishable(places.get(stage) or stage), _hash(hashes[stage]))
            for stage, does in stages.items()
            if hashes.get(stage) is not None
        ]


def read_schema(store: Store, output_format: str, records: Sequence[dict[str, Any]]) -> pa.Schema | None:
    """The columns of an output's data objects, from one of them; None where there is none."""
    for record in records:
        schema = FORMATS[output_format]().read_schema(store, record["data"]["name"])
        if schema is not None:
            return schema
    return None


def _hash(told: str) -> str:
    return "none: an endpoint served it" if told.startswith(SERVED) else told


def _publishable(uri: str) -> str:
    """A local path says where somebody's disk is: a card keeps its last part alone."""
    return uri if ":" in uri else uri.rstrip("/").rpartition("/")[2]
