"""Server-side encryption of S3 objects, asked for in one word: the store encrypts what it keeps, by a key of

- ``SSE-S3``: its own,
- ``SSE-KMS`` or ``SSE-KMS:KEY``: its key management service, the bucket's default key or the one with this id or ARN,
- ``SSE-C:env:NAME``: the customer, sent with each request that writes *or reads*, and kept by nobody else.

The word travels among the fsspec options of a place, as ``sse``; what S3 is told comes of it in the process that opens
the place, so that a customer's key is never part of anything that is stored or sent to another process.
"""

from __future__ import annotations

import os
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator

from actors.errors import UserError
from pipeline.secret_keys import key_name, read_key

OPTION = "sse"
_MODES = "SSE-S3, SSE-KMS, SSE-KMS:KEY_ID, or SSE-C:env:NAME"


def check_sse(text: str) -> str:
    """The word itself, when it is one; raises `ValueError` with a sentence otherwise."""
    mode, _, rest = text.partition(":")
    if mode == "SSE-C":
        try:
            key_name(rest, f"the key of {OPTION} SSE-C")
        except UserError as error:
            raise ValueError(str(error)) from None
    elif mode not in ("SSE-S3", "SSE-KMS") or (mode == "SSE-S3" and ":" in text) or text == "SSE-KMS:":
        raise ValueError(f"it must be {_MODES}")
    return text


Sse = Annotated[str, AfterValidator(check_sse)]
"""The type of the config's fields."""

MEANING = f"server-side encryption on S3: {_MODES} (base64 of 32 bytes); null = as the bucket does by itself"


def with_sse(options: dict[str, Any], sse: str | None) -> dict[str, Any]:
    """The options of a place with the word among them."""
    return dict(options) if sse is None else {**options, OPTION: sse}


def fsspec_options(uri: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options as fsspec takes them.

    Raises:
        UserError: the place is not on S3; the customer's key is not in this process's environment, or would be sent
            in the clear.
    """
    if OPTION not in options:
        return options
    rest = {name: value for name, value in options.items() if name != OPTION}
    if not uri.startswith(("s3://", "s3a://")):
        raise UserError(f"{OPTION} is for s3:// places alone: take it out, or encrypt the disk below this one")
    try:
        mode, _, key = check_sse(str(options[OPTION])).partition(":")
    except ValueError as error:
        raise UserError(f"{OPTION}: {error}") from None
    told: dict[str, Any]
    if mode == "SSE-S3":
        told = {"ServerSideEncryption": "AES256"}
    elif mode == "SSE-KMS":
        told = {"ServerSideEncryption": "aws:kms"} | ({"SSEKMSKeyId": key} if key else {})
    else:
        _require_https(rest)
        own = read_key(key, f"{OPTION} SSE-C", (32,))
        told = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": own}
        told |= {f"CopySource{name}": value for name, value in told.items()}
    # s3fs gives each request those of these that the request knows.
    return {**rest, "s3_additional_kwargs": {**rest.get("s3_additional_kwargs", {}), **told}}


def advice(options: dict[str, Any], status: int | None) -> str:
    """What to look at when a store refuses a request for good that asked for encryption; empty where it did not."""
    if OPTION not in options or status not in (400, 403, 501):
        return ""
    mode = str(options[OPTION]).partition(":")[0]
    return f" ({OPTION}={mode} was asked for: {_ADVICE[mode]})" if mode in _ADVICE else ""


_ADVICE = {
    "SSE-S3": "does this store offer it?",
    "SSE-KMS": "does this store offer it, does the key exist, and may these credentials use it?",
    "SSE-C": "does this store offer it, and was the object written with this key?",
}


def _require_https(options: dict[str, Any]) -> None:
    endpoint = (
        options.get("endpoint_url")
        or options.get("client_kwargs", {}).get("endpoint_url")
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or ""
    )
    parts = urlsplit(endpoint)
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise UserError(
            f"{OPTION}=SSE-C sends the key with each request, and '{parts.hostname}' is asked by plain http: use https"
        )
