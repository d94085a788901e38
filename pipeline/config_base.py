"""What the sections of a configuration are made of.

Options that decide the bytes of the dataset are its *identity* and enter the fingerprint; those marked with
``place(...)`` say where and how fast it runs, and do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.server_side_encryption import MEANING
from pipeline.storage_errors import public_uri


def place(default: Any, description: str, **constraints: Any) -> Any:
    """A field that says where or how fast, never what: it stays out of the fingerprint."""
    return Field(default, description=description, json_schema_extra={"place": True}, **constraints)


def option(default: Any, description: str, **constraints: Any) -> Any:
    """A field that decides bytes of the dataset: part of the fingerprint."""
    return Field(default, description=description, **constraints)


def later_option(default: Any, description: str, **constraints: Any) -> Any:
    """An option that came after the first outputs of this format version were written.

    It enters the fingerprint only where it departs from its default, so that what was made before it can be resumed.
    """
    return Field(default, description=description, json_schema_extra={"later": True}, **constraints)


def image_uris() -> Any:
    """The field that says which places a table's cells may name."""
    return place(
        [],
        "prefixes under which pictures that the table names may be read (s3://bucket/pictures/, /data/pictures/, "
        "https://host/); empty = only those in the table, and beside the table of an image folder",
    )


def max_image_pixels() -> Any:
    """The field that says how large a picture of a table may be."""
    return place(64 << 20, "pixels of one picture of the table at most; larger ones are not decoded", ge=1, le=1 << 28)


def server_side_encryption() -> Any:
    """The field that says how the store is to encrypt what it keeps of a place."""
    return place(None, MEANING)


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are not coerced across kinds, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        # Ray and tracebacks print what they hold: options may be credentials, and so may parts of a URI.
        for name, value in super().__repr_args__():
            if name == "options":
                continue
            yield name, public_uri(value) if isinstance(value, str) else value

    def identity(self) -> dict[str, Any]:
        """The values of this section that decide the dataset's bytes, as plain JSON types."""
        found: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            kind = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            value = getattr(self, name)
            if kind.get("place"):
                continue
            told = value.identity() if isinstance(value, Section) else value
            default = field.default.identity() if isinstance(field.default, Section) else field.default
            if not (kind.get("later") and told == default):
                found[name] = told
        return found
