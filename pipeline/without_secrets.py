"""Text as it may be told: no credential that stands in a URI, in an option, or in this process's environment.

The last net. What the project says of its own accord holds no credential (`pipeline.storage_errors.public_uri`); what a
library's error or a traceback quotes goes through here before a terminal or a log sees it.
"""

from __future__ import annotations

import os
import re

HIDDEN = "***"

_NAMES = (
    r"(?:secret|token|passw(?:or)?d|passphrase|credential|signature|api_?key|access_?key|account_?key|private_?key)"
)
_SECRET_NAME = re.compile(rf"(?i){_NAMES}|^(?:key|sas|sig|auth|salt)$|(?:_|-)(?:key|sas|sig|auth|salt)$")
# Options whose name sounds like a credential and is none: the name of a variable, a switch.
_NO_SECRET = re.compile(r"(?i)(?:_env|_file|_path|_id|max_new_tokens|max_tokens)$")
# A password may hold an unescaped slash; without a colon before the first slash an @ is a model's revision
# (hf://org/name@sha), and after a port it is part of a path.
_USER = re.compile(r"(?<=://)(?:[^\s/@'\"<>]+|[^\s/@:'\"<>]*:(?!\d+/)[^\s@'\"<>]*)@(?=[\w.\[-])")
# As a bucket's name, which is what s3fs takes it for and botocore quotes.
_BARE_USER = re.compile(r"[\w.+-]+:(?!//|\d+/)[^\s@'\"<>]+@(?=[\w.-])")
# With a value: a lone ? is a sign of a glob (s3://bucket/part-?.parquet).
_QUERY = re.compile(r"(\w[\w+.-]*:/?/[^\s?'\"<>]*)\?[^\s'\"<>)\]}=]*=[^\s'\"<>)\]}]*")
_PAIR = re.compile(
    rf"(?i)(([\w.-]*{_NAMES}[\w.-]*|\b(?:key|sig|sas))[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&)}}\]]+)"
)
_SHORTEST = 8
"""Characters of an environment variable's value from which on it is hidden: a shorter one is in any text by chance."""


_HIDDEN_VARIABLES: set[str] = set()


def hide_variable(name: str) -> None:
    """Has the value of this environment variable hidden in this process, whatever the name sounds like."""
    _HIDDEN_VARIABLES.add(name)


def is_secret_name(name: str) -> bool:
    """Whether an option or variable of this name holds a credential: ``secret``, ``key``, ``sas_token``, ..."""
    return bool(_SECRET_NAME.search(name)) and not _NO_SECRET.search(name)


def holds_secret(uri: str) -> bool:
    """Whether a URI holds ``user:password@`` or a query, where signed URLs and SAS tokens keep their signature."""
    return bool(_USER.search(uri) or _QUERY.search(uri))


def without_secrets(text: str) -> str:
    """The text with credentials replaced by ``***``."""
    for name, value in os.environ.items():
        secret = is_secret_name(name) or name in _HIDDEN_VARIABLES
        if secret and len(value) >= _SHORTEST and value in text:
            text = text.replace(value, HIDDEN)
    text = _USER.sub("", text)
    text = _BARE_USER.sub(f"{HIDDEN}@", text)
    text = _QUERY.sub(r"\1", text)
    return _PAIR.sub(lambda pair: f"{pair[1]}{HIDDEN}" if is_secret_name(pair[2]) else pair[0], text)
