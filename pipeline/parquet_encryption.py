"""How an output's Parquet is encrypted: whole, or chosen columns; by a key of the environment, or a key service's.

Whole and by a key of the environment, a file is what DuckDB reads too: one key for footer and columns, AES-GCM. In all
other cases each file has keys of its own, wrapped by the master key, in the form that pyarrow's ``CryptoFactory`` and
Spark share. Nonces and files' keys are random, so an encrypted file is another one each time it is made. As with signed
images nothing else changes: the first data object that landed is the shard, and its record holds *its* digests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe

from actors.errors import UserError
from pipeline.parquet_keys import KEY, KMS, key_check, key_service, keys


@dataclass(frozen=True)
class ParquetEncryption:
    """What is encrypted; holds no key.

    Args:
        columns: of the data objects; None = the whole files. Tables beside the data are encrypted whole in either case.
        key_id: the master key's name in the key service; None = the key is the environment's.
    """

    columns: tuple[str, ...] | None = None
    key_id: str | None = None

    def check(self, names: list[str]) -> str | None:
        """Tries it out.

        Args:
            names: columns of the output.

        Returns:
            The `key_check` of the environment's key; None where a key service has it.

        Raises:
            UserError: no key, no key service, no such column, or words that would stay readable in another column.
        """
        for name in self.columns or ():
            if name not in names:
                raise UserError(f"output.encryption.columns: the output has no column '{name}'; {', '.join(names)}")
        chosen = set(self.columns or ())
        if len(chosen & {"prompt", "description"}) == 1:
            raise UserError(
                "output.encryption.columns: prompt and description hold the same words, so name both of them or neither"
            )
        schema = pa.schema([(name, pa.string()) for name in names])
        sink = pa.BufferOutputStream()
        pq.write_table(schema.empty_table(), sink, encryption_properties=self.properties(schema))
        return None if self.key_id is not None else key_check(_first_key())

    def properties(self, schema: pa.Schema | None = None) -> Any:
        """What `pyarrow.parquet.ParquetWriter` takes as ``encryption_properties``; for one file.

        Args:
            schema: of a data object; None for a table beside the data.

        Raises:
            UserError: the key is not here, or the key service refuses.
        """
        own = self.key_id is None
        master = key_check(_first_key()) if self.key_id is None else self.key_id
        if own and (schema is None or self.columns is None):
            return pe.create_encryption_properties(_first_key())
        told: dict[str, Any] = {"footer_key": master, "double_wrapping": False, "data_key_length_bits": 256}
        if schema is None or self.columns is None:
            told["uniform_encryption"] = True
        else:
            leaves = [path for path in parquet_leaves(schema) if path.partition(".")[0] in self.columns]
            told |= {"column_keys": {master: leaves}, "plaintext_footer": True}
        try:
            return key_service(own=own).file_encryption_properties(
                pe.KmsConnectionConfig(), pe.EncryptionConfiguration(**told)
            )
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the key service of {KMS} does not wrap a key ({type(error).__name__}: {error})"
            ) from error


def parquet_leaves(schema: pa.Schema) -> list[str]:
    """Dotted paths of the Parquet leaf columns that a schema becomes."""
    # Only Parquet's own mapping knows the names inside lists and maps: let it write an empty file and read them there.
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    parquet = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [parquet.column(i).path for i in range(len(parquet))]


def _first_key() -> bytes:
    found = keys()
    if not found:
        raise UserError(
            f"output.encryption needs the environment variable {KEY}, which is not set here: base64 of 32 bytes "
            f"(openssl rand -base64 32), on every node; or output.encryption.key_id and {KMS}"
        )
    return found[0]
