"""How a shard's images and rows become objects: Parquet, WebDataset tar, or image files beside their metadata."""

from __future__ import annotations

from pipeline.formats.base import ShardFormat
from pipeline.formats.files import FilesFormat
from pipeline.formats.parquet import ParquetFormat
from pipeline.formats.webdataset import WebDatasetFormat

FORMATS: dict[str, type[ShardFormat]] = {
    "parquet": ParquetFormat,
    "webdataset": WebDatasetFormat,
    "files": FilesFormat,
}

__all__ = ["FORMATS", "FilesFormat", "ParquetFormat", "ShardFormat", "WebDatasetFormat"]
