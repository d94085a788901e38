"""Which storage errors pass by themselves, and what a person is told of the others."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from pipeline.without_secrets import without_secrets

_TRANSIENT_STATUS = {408, 409, 425, 429, 500, 502, 503, 504, 509}
_TRANSIENT_CODES = {
    "SlowDown",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "InternalError",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "OperationAborted",
    "ConditionalRequestConflict",
    "NoSuchUpload",  # a multipart upload that a lost reply has in truth completed or aborted
}
_TRANSIENT_ERRNO = {
    errno.ECONNRESET,
    errno.ECONNREFUSED,
    errno.ECONNABORTED,
    errno.EPIPE,
    errno.ETIMEDOUT,
    errno.EBUSY,
    errno.EAGAIN,
    errno.EINTR,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ESTALE,
}
# Client libraries' own classes for a connection that broke, by name: none of them need be installed.
_TRANSIENT_NAMES = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ServerDisconnectedError",
    "ConnectionClosedError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "EndpointConnectionError",
    "HTTPClientError",
    "IncompleteReadError",
    "ResponseStreamingError",
    "FSTimeoutError",
}
_PERMANENT = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)

_SENTENCES = {
    errno.ENOSPC: "the disk is full; free space, then run again to resume",
    errno.EDQUOT: "the quota is used up; free space, then run again to resume",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission; check the owner and mode of the directory",
    errno.EPERM: "not permitted; check the owner and mode of the directory",
    errno.ENOTDIR: "a part of the path is a file, not a directory",
    errno.ENAMETOOLONG: "the path is too long",
}


def public_uri(uri: str) -> str:
    """The URI without user, password and query, which may hold credentials; of chained URIs (``a::s3://``) too."""
    if "::" in uri:
        return "::".join(public_uri(part) for part in uri.split("::"))
    try:
        parts = urlsplit(uri)
    except ValueError:  # no URI that anybody can read, so nobody knows where its password ends
        return f"{uri.partition('://')[0]}://***"
    if not parts.scheme or "://" not in uri:
        return uri
    # A password may hold an unescaped slash: the last @ before the path's own ones ends it.
    user = re.match(r"[^@]*:[^@]*@", parts.netloc + parts.path) if "@" not in parts.netloc else None
    rest = (parts.netloc + parts.path)[user.end() :] if user else parts.netloc.rpartition("@")[2] + parts.path
    return f"{parts.scheme}://{rest}"


def is_taken(error: BaseException) -> bool:
    """Whether a put "only if absent" failed because the name is taken.

    Not every S3 names the condition that failed, so a bare 412 counts too; a conditional put has no other condition.
    """
    if isinstance(error, FileExistsError):
        return True
    return any(_response(link)[0] == 412 or _response(link)[1] == "PreconditionFailed" for link in _chain(error))


def is_transient(error: BaseException) -> bool:
    """Whether the request may go through when asked again; its outcome is unknown."""
    for link in _chain(error):
        status, code = _response(link)
        if status is not None or code is not None:
            return status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES
        if type(link).__name__ in _TRANSIENT_NAMES:
            return True
        if isinstance(link, _PERMANENT):
            continue
        if isinstance(link, TimeoutError | asyncio.TimeoutError | ConnectionError):
            return True
        if isinstance(link, OSError) and link.errno in _TRANSIENT_ERRNO:
            return True
    return False


def answered(error: BaseException) -> int | None:
    """The HTTP status that a store refused with; None where it did not get so far."""
    return next((status for status, _ in map(_response, _chain(error)) if status is not None), None)


def cause(error: BaseException) -> str:
    """What went wrong in one word: the status that was answered, or the error's class."""
    status = answered(error)
    return type(error).__name__ if status is None else str(status)


def describe(error: BaseException) -> str:
    """What happened, for a person: no credentials, no request dump."""
    for link in _chain(error):
        status, code = _response(link)
        if code in {"NoSuchBucket"}:
            return "no such bucket; create it, or mend the URI"
        if code in {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"} or status == 401:
            return f"the credentials were refused ({code or status}); check AWS_ACCESS_KEY_ID and its secret"
        if code == "RequestTimeTooSkewed":  # before its status, 403: no key and no policy mends a clock
            return "this machine's clock is not the store's; set it right (NTP), then run again"
        if code in {"AccessDenied", "Forbidden"} or status == 403:
            return "access denied (403); check the credentials and the bucket's policy"
        if status == 400 and (code in {"400", "BadRequest"} or "Server Side Encryption" in str(link)):
            # Also what S3 answers to whoever reads without the key: to a HEAD without any words.
            return "the store answered 400; of objects under SSE-C it does so where their key is not given (sse)"
        if status is not None and status >= 400:
            return f"the store answered {status} {code or ''}".rstrip()
        if type(link).__name__ == "ParamValidationError":
            return "the URI names no valid bucket; mend it, and put credentials into the environment"
        if type(link).__name__ == "NoCredentialsError":
            return "no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if isinstance(error, FileNotFoundError):
        return "no such file, directory or bucket"
    if isinstance(error, OSError) and error.errno in _SENTENCES:
        return _SENTENCES[error.errno]
    if isinstance(error, PermissionError):
        return "access denied; check the credentials and the permissions"
    text = without_secrets(str(error))
    return f"{type(error).__name__}: {' '.join(text.split())[:200]}".rstrip(": ")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _response(error: BaseException) -> tuple[int | None, str | None]:
    """(HTTP status, error code) of a botocore ``ClientError`` or an aiohttp ``ClientResponseError``."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status, response.get("Error", {}).get("Code")
    status = getattr(error, "status", None)
    return (status, None) if isinstance(status, int) else (None, None)
