"""Encrypted Parquet opened with the keys of the environment, whichever table of promptmill it is.

    PROMPTMILL_PARQUET_KEY    base64 of 16, 24 or 32 bytes; several, with commas: the first encrypts, each decrypts
    PROMPTMILL_PARQUET_KMS    module:function of a key service: called with pyarrow's ``KmsConnectionConfig``, it
                              returns a ``pyarrow.parquet.encryption.KmsClient``

A file says of itself how it is encrypted, so no table needs an option for being read, and a key that was replaced goes
on opening what it closed. Code is imported by the environment's word alone: a file or record can name none.

The format is Parquet modular encryption, https://github.com/apache/parquet-format/blob/master/Encryption.md.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import importlib
import os
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe

from actors.errors import UserError
from pipeline.secret_keys import decode_key
from pipeline.storage_errors import is_transient, public_uri
from pipeline.without_secrets import hide_variable

KEY, KMS = "PROMPTMILL_PARQUET_KEY", "PROMPTMILL_PARQUET_KMS"
SIZES = (16, 24, 32)


def keys() -> list[bytes]:
    """The keys that are set here, the one that encrypts first; raises `UserError` where one is none."""
    hide_variable(KEY)
    return [decode_key(value, KEY, SIZES) for value in os.environ.get(KEY, "").split(",") if value.strip()]


def key_check(key: bytes) -> str:
    """What tells a key from another one and says nothing else of it: 16 hex digits."""
    return hmac.new(key, b"promptmill: which Parquet key", hashlib.sha256).hexdigest()[:16]


def has_keys() -> bool:
    """Whether anything encrypted could be opened here."""
    return bool(os.environ.get(KEY) or os.environ.get(KMS))


def key_service(*, own: bool) -> pe.CryptoFactory:
    """Wraps and unwraps the keys of single files.

    Args:
        own: by the keys that are set here; otherwise by the service of `KMS`.

    Raises:
        UserError: there is no such service, or it does not start.
    """
    return pe.CryptoFactory((lambda config: _OwnKeys()) if own else _service(os.environ.get(KMS, "")))


def open_parquet(stream: Any, where: str, **options: Any) -> pq.ParquetFile:
    """A Parquet file, encrypted or not.

    Args:
        stream: the open file.
        where: its URI, for messages.
        options: of `pyarrow.parquet.ParquetFile`.

    Raises:
        UserError: it is encrypted, and the key is not here.
        pyarrow.ArrowInvalid, OSError: it is no Parquet, or cannot be read.
    """
    # A file that leaves its footer readable and encrypts columns ends the whole process in native code when they are
    # looked at without a key. Asked for a key's signature of the footer, it gives itself away; a plain file has none.
    # A key that nobody can know: nobody can have signed with it.
    try:
        return _open(stream, pe.create_decryption_properties(os.urandom(16), allow_plaintext_files=True), options)
    except (OSError, pa.ArrowInvalid) as error:
        if is_transient(error):
            raise
        whole = _magic(stream) == b"PARE"
        if not whole and "signature verification" not in str(error):
            raise
    for key in keys() if whole else []:
        try:
            return _open(stream, pe.create_decryption_properties(key), options)
        except OSError as error:
            if is_transient(error):
                raise
    for own in ([True] if os.environ.get(KEY) else []) + ([False] if os.environ.get(KMS) else []):
        try:
            opened = key_service(own=own).file_decryption_properties(pe.KmsConnectionConfig())
            return _open(stream, opened, options)
        except UserError:
            raise
        except Exception as error:  # a key service raises what it likes
            if is_transient(error):
                raise
    shown = public_uri(where)
    if not has_keys():
        raise UserError(f"'{shown}' is encrypted: set {KEY} to its key, or {KMS} to its key service (docs/privacy.md)")
    raise UserError(f"'{shown}' is encrypted with another key than those of {KEY} and {KMS} here; add its own")


def _open(stream: Any, decryption: Any, options: dict[str, Any]) -> pq.ParquetFile:
    stream.seek(0)
    return pq.ParquetFile(stream, decryption_properties=decryption, **options)


def _magic(stream: Any) -> bytes:
    stream.seek(-4, os.SEEK_END)
    return bytes(stream.read(4))


class _OwnKeys(pe.KmsClient):
    """Wraps files' keys with the keys that are set here (RFC 3394); they are called by their `key_check`."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        """For pyarrow."""
        return base64.b64encode(_key_wrap().aes_key_wrap(self._master(master_key_identifier), key_bytes)).decode()

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        """For pyarrow."""
        master = self._master(master_key_identifier)
        return bytes(_key_wrap().aes_key_unwrap(master, base64.b64decode(wrapped_key)))

    def _master(self, name: str) -> bytes:
        return next(key for key in keys() if key_check(key) == name)


def _key_wrap() -> Any:
    try:
        return importlib.import_module("cryptography.hazmat.primitives.keywrap")
    except ImportError:
        raise UserError("encrypted columns need the extra `encryption`: pip install 'promptmill[encryption]'") from None


@functools.cache
def _service(place: str) -> Callable[[Any], pe.KmsClient]:
    module, _, name = place.partition(":")
    try:
        made: Callable[[Any], pe.KmsClient] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{KMS} must be module:function of a key service that can be imported here ({type(error).__name__}); "
            "see docs/privacy.md"
        ) from error
    return made
