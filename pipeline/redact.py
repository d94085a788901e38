"""Chosen columns dropped, or replaced by a keyed hash, before anything is written: data, rejects, pages, records.

A hash is the first 32 hex digits of HMAC-SHA256 over the value as text, by a salt that the environment holds: equal
values stay equal, so rows can be grouped and joined, and nobody without the salt can try out guesses. Without a salt it
is SHA-256 itself, which anybody can try guesses against: for values that cannot be guessed alone.

Carried columns and ids are redacted where a row is read, before it passes through Ray. Prompts must reach the models,
so they are redacted where a shard is written.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.types as pt

from actors.errors import UserError
from pipeline import columns as c
from pipeline.secret_keys import read_key

_SIZES = (16, 24, 32)
_WORDS = ("prompt", "description")


@dataclass(frozen=True)
class Redaction:
    """What is done to which columns of the prompt table and of the output; holds no salt.

    Args:
        drop, hash: names of columns; of the output's own columns ``prompt`` and ``description``, and ``id`` (hash).
        salt: ``env:NAME`` of the variable with the salt; None = plain SHA-256.
    """

    drop: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()
    salt: str | None = None

    @property
    def hides_words(self) -> bool:
        """Whether prompts and descriptions are redacted."""
        return bool({*self.drop, *self.hash} & set(_WORDS))

    def choose(self, schema: pa.Schema, columns: c.TableColumns) -> c.TableColumns:
        """The columns that are still read.

        Raises:
            UserError: no such column, one that cannot be redacted, or a salt that is missing.
        """
        named = [*self.drop, *self.hash]
        for name in named:
            if named.count(name) > 1:
                raise UserError(f"redact names column '{name}' twice; name it once, under drop or under hash")
            self._require(name, schema, columns)
        if len({*named} & set(_WORDS)) == 1:
            raise UserError("redact: prompt and description hold the same words, so name both of them or neither")
        if self.hides_words and self.salt is None:
            raise UserError(
                "redact.salt must be env:NAME where prompts are redacted: ids of rows without one of their own are "
                "made of the prompt, and without a salt they could be guessed back"
            )
        gone = set(self.drop)
        return replace(
            columns,
            read=tuple(name for name in columns.read if name not in gone),
            carried=tuple(name for name in columns.carried if name not in gone),
        )

    def salt_check(self) -> str | None:
        """What tells the salt from another one and says nothing else of it; None without one."""
        return None if self.salt is None else self._digest("promptmill: which salt")[:16]

    def rows(self, table: pa.Table) -> pa.Table:
        """Rows as they are read, with hashes in place of carried columns and of the table's ids."""
        for name in self.hash:
            if name in table.schema.names and name not in _WORDS:
                table = self._hashed(table, name)
        return table

    def ids(self, ids: Sequence[str], own: Sequence[bool]) -> list[str]:
        """Ids that tell nothing of what they are made from.

        Args:
            ids: as the table or the content of its rows gives them.
            own: whether each is the table's own.
        """
        if "id" in self.hash:
            return [self._digest(name) for name in ids]
        if not self.hides_words:
            return list(ids)
        return [name if given else self._digest(name) for name, given in zip(ids, own, strict=True)]

    def output(self, rows: pa.Table) -> pa.Table:
        """Output rows without the words that are redacted."""
        for name in _WORDS:
            if name in self.drop:
                rows = _set(rows, name, pa.nulls(rows.num_rows, rows.schema.field(name).type))
            elif name in self.hash:
                rows = self._hashed(rows, name)
        return rows

    def rejects(self, rows: pa.Table, prompt: str) -> pa.Table:
        """Rejected rows without their words: a hash would be a prompt like any other to whoever runs them again."""
        if not self.hides_words:
            return rows
        return _set(rows, prompt, pa.nulls(rows.num_rows, rows.schema.field(prompt).type))

    def _require(self, name: str, schema: pa.Schema, columns: c.TableColumns) -> None:
        if name in (columns.prompt, "prompt", "description"):
            if name not in _WORDS:
                raise UserError(f"redact: the column '{name}' is called prompt in the output; name it so here")
            return
        if name == "id":
            if name in self.drop:
                raise UserError("redact.drop: rows and images are told apart by their id; name id under redact.hash")
            return
        if name in columns.honoured:
            raise UserError(
                f"redact: the column '{name}' decides what is made of a row, and its rejects are run again with it: "
                "take it out of the table, or see output.encryption"
            )
        if name not in columns.carried:
            known = ", ".join(["prompt", "description", "id", *columns.carried])
            raise UserError(f"redact: there is no carried column '{name}'; it can be any of {known}")
        kind = schema.field(name).type
        if name in self.hash and not _has_text(kind):
            raise UserError(f"redact.hash: the column '{name}' is of type {kind}, which has no one text; drop it")

    def _hashed(self, table: pa.Table, name: str) -> pa.Table:
        values = table[name].to_pylist()
        return _set(
            table, name, pa.array([None if v is None or v == "" else self._digest(v) for v in values], pa.string())
        )

    def _digest(self, value: object) -> str:
        data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        if self.salt is None:
            return hashlib.sha256(data).hexdigest()[:32]
        return hmac.new(read_key(self.salt, "redact.salt", _SIZES), data, hashlib.sha256).hexdigest()[:32]


def _set(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), pa.field(name, values.type), values)


def _has_text(kind: pa.DataType) -> bool:
    if pt.is_dictionary(kind):
        kind = kind.value_type
    texts = (pt.is_string, pt.is_large_string, pt.is_string_view, pt.is_binary, pt.is_large_binary)
    others = (pt.is_integer, pt.is_boolean, pt.is_decimal, pt.is_date, pt.is_null)
    return any(fits(kind) for fits in (*texts, *others))
