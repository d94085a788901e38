"""The section of a run's configuration that says what is written."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from pipeline.config_base import Section, later_option, option, place


class ImageFile(Section):
    """How one image is encoded."""

    encoding: Literal["png", "jpeg", "webp"] = option("png", "image file format")
    quality: int = option(90, "1..100 for jpeg and webp; ignored by png", ge=1, le=100)


class ContentCredentials(Section):
    """Who signs the images (C2PA); needs the extra `c2pa`."""

    certificate: str = place("", "PEM file: the signer's certificate, then those above it; on every node that renders")
    key: str = place("", "PEM file of the private key, or env:NAME of a variable that holds it where images are made")
    algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = option(
        "es256", "signature algorithm of the key"
    )
    timestamp_url: str | None = place(None, "RFC 3161 time stamp service asked for each image; null = no time stamp")


class Encryption(Section):
    """Parquet modular encryption, by PROMPTMILL_PARQUET_KEY or PROMPTMILL_PARQUET_KMS (docs/privacy.md)."""

    columns: list[str] | None = option(
        None, "columns that are encrypted, the others stay readable; null = whole files, which DuckDB reads too"
    )
    key_id: str | None = option(
        None, "master key's name in the key service of PROMPTMILL_PARQUET_KMS; null = the key PROMPTMILL_PARQUET_KEY"
    )


class Card(Section):
    """What the dataset card says that the run cannot know."""

    title: str = place("Images made by promptmill", "title of the dataset card and the report")
    license: str = place(
        "other", "the dataset's licence, as the Hugging Face Hub names it (apache-2.0, cc-by-4.0, ...)"
    )


class Output(Section):
    """Where the dataset goes and what it looks like."""

    uri: str = place("out/promptmill", "directory or fsspec URI (s3://bucket/name) that holds this one dataset")
    format: Literal["parquet", "webdataset", "files"] = option(
        "parquet", "images in rows, a tar a shard, or image files beside metadata.parquet"
    )
    image: ImageFile = option(ImageFile(), "image encoding")
    c2pa: ContentCredentials | None = later_option(
        None, "signer of a C2PA manifest in each image; signatures are random, so files differ between two runs"
    )
    encryption: Encryption | None = later_option(
        None, "what of the output is encrypted ({} = all); null = nothing; files differ between two runs"
    )
    card: Card = place(Card(), "texts of the dataset card")

    @model_validator(mode="after")
    def _encryptable(self) -> Output:
        if self.encryption is not None and self.format != "parquet":
            raise ValueError("encryption needs format parquet: tars and image files have none; see storage.sse")
        return self
