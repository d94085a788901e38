"""Uploads in parts that were never completed: S3 keeps, and bills, their parts until somebody aborts them."""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline.drivers import modified_seconds
from pipeline.storage import Store


@dataclass(frozen=True)
class Upload:
    """One upload that was begun and not completed; ``begun`` in seconds by the store's clock, None where untold."""

    name: str
    upload_id: str
    begun: float | None


def open_uploads(store: Store) -> list[Upload] | None:
    """The uploads under the store's root; None where this store does not tell (no S3, no such call, no right to it).

    Raises:
        JobError: the store failed for as long as it was tried.
        UserError: it refuses to tell.
    """
    if "s3" not in store.fs.protocol:
        return None
    bucket, _, prefix = store.root.partition("/")
    prefix = f"{prefix}/" if prefix else ""
    found: list[Upload] = []
    marker: dict[str, Any] = {}
    while True:
        page = store.request(partial(_page, store, bucket, prefix, marker), "", "list the uploads of")
        if page is None:
            return None
        for entry in page.get("Uploads", []):
            if entry["Key"].startswith(prefix):
                name = entry["Key"][len(prefix) :]
                found.append(Upload(name, entry["UploadId"], modified_seconds(entry.get("Initiated"))))
        if not page.get("IsTruncated") or not page.get("NextKeyMarker"):
            return found
        marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page.get("NextUploadIdMarker", "")}


def _page(store: Store, bucket: str, prefix: str, marker: dict[str, Any]) -> dict[str, Any] | None:
    try:
        page: dict[str, Any] = store.fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **marker)
    except PermissionError:
        return None  # the right to list uploads is one of its own, and few policies grant it
    except OSError as error:
        if error.errno == errno.ENOSYS:  # what s3fs makes of a store's 501
            return None
        raise
    return page


def abort_upload(store: Store, upload: Upload) -> None:
    """Aborts one upload; one that is gone is no error."""
    bucket, _, prefix = store.root.partition("/")
    key = f"{prefix}/{upload.name}" if prefix else upload.name

    def attempt() -> None:
        with contextlib.suppress(FileNotFoundError):
            store.fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload.upload_id)

    store.request(attempt, upload.name, "abort the upload of")
