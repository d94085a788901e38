"""Pictures that a table names instead of holding: which places may be read, and how.

A table's author is not who runs the job: a path in a cell could name any file that the job can read, or any server that
it can reach. So only places under a prefix of the config's ``image_uris`` are read, and, beside an image folder's
table, relative paths that stay in its directory.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from actors.errors import JobError
from pipeline.retry import RetryPolicy
from pipeline.server_side_encryption import fsspec_options
from pipeline.storage_errors import describe, is_transient, public_uri
from pipeline.web_picture import RefusedError, fetch

MOST_BYTES = 256 << 20
"""Of one picture's file."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_IPV6 = re.compile(r"^https?://(\[[0-9A-Fa-f:.]+\])(?=[:/?#]|$)", re.IGNORECASE)
"""A web address whose host is an IPv6 address: its double colon chains no URLs."""
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class ImagePlaces:
    """The places that a table's cells may name; picklable.

    Args:
        table: URI of the table; paths without a scheme are on its file system.
        prefixes: the config's allow-list: ``s3://bucket/prefix/``, ``/data/pictures/``, ``https://host/``.
        option: the allow-list's name in the config, for messages.
        options: fsspec options of the table's file system; other file systems get none of them.
        beside: whether relative paths in the table's directory may be read without a prefix.
    """

    table: str
    prefixes: tuple[str, ...] = ()
    option: str = "image_uris"
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    beside: bool = False

    def read(self, name: str, directory: str) -> bytes:
        """The file that a cell names.

        Args:
            name: what the cell says.
            directory: of the table's file, where relative paths start.

        Raises:
            RefusedError: it must not be read; the text says why, and which option would allow it.
            OSError, ValueError, ImportError: it cannot be read.
            JobError: its store does not answer, however often it is asked.
        """
        chained = "::" in _IPV6.sub("", name)
        if chained or "\\" in name or any(ord(sign) < 33 or ord(sign) == 127 for sign in _head(name)):
            raise RefusedError("chained URLs, backslashes and control characters are never read")
        relative = not _SCHEME.match(name) and not name.startswith("/")
        fs = fsspec.core.url_to_fs(self.table, **fsspec_options(self.table, self.options))[0]
        whole = f"{directory.rstrip('/')}/{name}" if relative else name
        if relative and not isinstance(fs, LocalFileSystem):
            whole = str(fs.unstrip_protocol(whole))
        inside = relative and self.beside and _within(whole, str(fs.unstrip_protocol(directory)))
        if not inside and not self.allows(whole):
            raise RefusedError(
                f"it is not under a prefix of {self.option}, which says where pictures may be read from"
                + ("" if self.prefixes else " and is empty")
            )
        if _scheme(whole) in _PORTS:
            return fetch(whole, self.allows, self._loopback, MOST_BYTES)
        same = _scheme(whole) == _scheme(str(fs.unstrip_protocol("x")))
        place, path = fsspec.core.url_to_fs(whole, **(fsspec_options(whole, self.options) if same else {}))
        try:
            return RetryPolicy().run(lambda: _bounded(place, path))
        except Exception as error:
            if not is_transient(error):
                raise
            # Of a row whose store was away for a while nobody may say that it has no picture.
            raise JobError(
                f"the picture '{public_uri(whole)}' cannot be read now: {describe(error)}; run again to resume"
            ) from error

    def allows(self, place: str) -> bool:
        """Whether a place is under one of the prefixes."""
        return any(_within(place, prefix) for prefix in self.prefixes)

    def _loopback(self, host: str) -> bool:
        # A name could come to mean this machine without the config's doing; an address or `localhost` cannot.
        named = {urlsplit(prefix).hostname for prefix in self.prefixes}
        return host in named and host in ("localhost", "127.0.0.1", "::1")


def _within(place: str, prefix: str) -> bool:
    """Whether a place is a prefix or below it: by whole segments, and of local files where links really lead."""
    if _scheme(place) != _scheme(prefix):
        return False
    if _scheme(place) == "file":
        root, path = os.path.realpath(_local(prefix)), os.path.realpath(_local(place))
        return path.startswith(root.rstrip("/") + "/") or path == root
    place_parts, prefix_parts = urlsplit(place), urlsplit(prefix)
    try:
        hosts = _host(place), _host(prefix)
    except ValueError:
        return False
    web = place_parts.scheme in _PORTS
    if (web and "@" in place_parts.netloc) or (prefix_parts.netloc and hosts[0] != hosts[1]):
        return False
    # Outside of HTTP a key is what it says, percent signs and all; in neither may it climb.
    path = unquote(place_parts.path) if web else place.partition(place_parts.netloc)[2]
    if any(part in (".", "..") for part in path.split("/")) or "\\" in path:
        return False
    root = (unquote(prefix_parts.path) if web else prefix.partition(prefix_parts.netloc)[2]).rstrip("/")
    return path == root or path.startswith(root + "/")


def _scheme(place: str) -> str:
    found = _SCHEME.match(place)
    return found.group(1).lower() if found else "file"


def _local(place: str) -> str:
    return place[len("file://") :] if place[:7].lower() == "file://" else place


def _host(place: str) -> tuple[str, int | None]:
    """Host and port; a bucket's name keeps its case."""
    parts = urlsplit(place)
    if parts.scheme in _PORTS:
        return (parts.hostname or ""), parts.port or _PORTS[parts.scheme]
    return parts.netloc, None


def _head(name: str) -> str:
    """What of a name must be printable: all of a URL, whose readers drop line breaks without a word."""
    return name if _SCHEME.match(name) else name.replace(" ", "_")


def _bounded(fs: Any, path: str) -> bytes:
    if isinstance(fs, LocalFileSystem) and not stat.S_ISREG(Path(path).stat().st_mode):
        raise RefusedError("it is no ordinary file")
    size = fs.info(path).get("size")
    if size is not None and size > MOST_BYTES:
        raise RefusedError(f"it has {size} bytes, more than {MOST_BYTES}")
    with fs.open(path, "rb") as stream:
        data: bytes = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise RefusedError(f"it has more than {MOST_BYTES} bytes")
    return data
