"""Keys that the environment holds: a config names the variable (``env:NAME``), and whoever needs the key reads it.

So no key is part of a config, a record, a fingerprint, a message, or of what Ray carries from process to process.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Collection

from actors.errors import UserError
from pipeline.without_secrets import hide_variable

PREFIX = "env:"


def key_name(reference: str, option: str) -> str:
    """The variable that ``env:NAME`` names; raises `UserError` for anything else, and does not quote it."""
    name = reference.removeprefix(PREFIX)
    if name == reference or not name.isidentifier():
        raise UserError(
            f"{option} must be env:NAME, the name of an environment variable that holds the key: a key itself belongs "
            "in no config"
        )
    return name


def read_key(reference: str, option: str, sizes: Collection[int]) -> bytes:
    """The key: the variable holds it as base64.

    Args:
        reference: ``env:NAME``.
        option: of the config, for messages.
        sizes: lengths in bytes that will do.

    Raises:
        UserError: the variable is not set here, is no base64, or holds another number of bytes.
    """
    name = key_name(reference, option)
    hide_variable(name)
    value = os.environ.get(name, "")
    if not value:
        raise UserError(f"{option} needs the environment variable {name}, which is not set here; {_make(name, sizes)}")
    return decode_key(value, name, sizes)


def decode_key(value: str, name: str, sizes: Collection[int]) -> bytes:
    """A variable's base64 as a key; raises `UserError`, which does not quote it."""
    try:
        key = base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"the environment variable {name} holds no base64; {_make(name, sizes)}") from None
    if len(key) not in sizes:
        wanted = " or ".join(str(size) for size in sorted(sizes))
        raise UserError(f"the environment variable {name} holds {len(key)} bytes, not {wanted}; {_make(name, sizes)}")
    return key


def _make(name: str, sizes: Collection[int]) -> str:
    return f"e.g. {name}=$(openssl rand -base64 {max(sizes)}), on every node"
