"""Copies a model from a store into the node's cache: once, whole, and the bytes that the store has.

Each file is compared with what the store says of it: its size, its MD5 (S3's ETag of an object that was put in one
part, Google's ``md5Hash``), and its line in a file ``SHA256SUMS`` beside it, where there is one. A copy that differs is
made again. With some encryption an ETag looks like an MD5 and is none: two copies that agree are right.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from actors.cache_limit import MANIFEST, make_room
from actors.errors import JobError, UserError
from actors.model_cache import made_once
from actors.model_files import check_weights, relevant

SUMS = "SHA256SUMS"
_MD5 = re.compile(r"[0-9a-f]{32}")
_SUM = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_TRIES = 3
_THREADS = 4


def copy_from_store(uri: str, shown: str, cache: Path, *, allow_unsafe: bool | None) -> Path:
    """The model's directory (or single file) in the cache; see `actors.model_uri.resolve_model`."""
    try:
        store, root = fsspec.core.url_to_fs(uri)
        listing: dict[str, dict[str, Any]] = store.find(root, detail=True)
    except FileNotFoundError:
        listing = {}
    except (ValueError, ImportError) as error:
        raise UserError(f"the model {shown} has an unknown kind of URI: {type(error).__name__}") from error
    except Exception as error:
        # Drivers raise what they like; the type is told and the text is not, for it may quote a credential.
        raise JobError(
            f"the model {shown} cannot be listed ({type(error).__name__}): check store and rights"
        ) from error
    if not listing:
        raise UserError(f"the model {shown} does not exist: give the prefix that holds its config and weights")
    single = list(listing) == [store._strip_protocol(root)]
    base = str(PurePosixPath(root).parent) if single else root
    names = {str(PurePosixPath(path).relative_to(base)): path for path in listing}
    if any(".." in PurePosixPath(name).parts for name in names):
        # A key is any text; as a path of the cache it would be a way out of it.
        raise UserError(f"the model {shown} has objects with '..' in their names: rename them")
    check_weights(names, shown, allow_unsafe=allow_unsafe)
    wanted = relevant(names, allow_unsafe=allow_unsafe)
    # The listing is part of the key: another upload under the same URI is another copy.
    counted = [*wanted, SUMS] if SUMS in names else wanted
    marks = [(name, _version(listing[names[name]])) for name in counted]
    target = cache / "models" / hashlib.sha256(repr((root, marks)).encode()).hexdigest()[:32]

    def copy(directory: Path) -> None:
        make_room(cache, sum(int(listing[names[name]].get("size") or 0) for name in wanted), shown)
        try:
            sums = _sums(store.cat_file(names[SUMS])) if SUMS in names else {}
        except Exception as error:
            raise _not_copied(shown, error) from error

        def one(name: str) -> tuple[str, dict[str, Any]]:
            local = directory / name
            local.parent.mkdir(parents=True, exist_ok=True)
            return name, _copy_file(store, names[name], local, listing[names[name]], sums.get(name), shown)

        with ThreadPoolExecutor(_THREADS) as pool:
            files = dict(pool.map(one, wanted))
        (directory / MANIFEST).write_text(json.dumps({"uri": shown, "files": files}, indent=1))

    made = made_once(target, copy)
    return made / wanted[0] if single else made


def _copy_file(
    store: Any, path: str, local: Path, entry: dict[str, Any], sha256: str | None, shown: str
) -> dict[str, Any]:
    """Copies one file and returns its size and hash; raises `JobError` where the copy never becomes what is there."""
    size, md5, before = entry.get("size"), _md5(entry), None
    for _ in range(_TRIES):
        try:
            store.get_file(path, str(local))
        except Exception as error:
            raise _not_copied(shown, error) from error
        found = _digests(local)
        fits = (size is None or local.stat().st_size == size) and (sha256 is None or found[0] == sha256)
        if fits and (sha256 is not None or md5 in (None, found[1]) or found == before):
            return {"size": local.stat().st_size, "sha256": found[0]}
        before = found
    raise JobError(
        f"the model {shown} cannot be copied whole: {local.name} has not the content that the store lists "
        f"({'its line in ' + SUMS if sha256 else 'size and MD5'}) after {_TRIES} copies; upload it again"
    )


def _digests(path: Path) -> tuple[str, str]:
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while part := stream.read(1 << 20):
            sha256.update(part)
            md5.update(part)
    return sha256.hexdigest(), md5.hexdigest()


def _md5(entry: dict[str, Any]) -> str | None:
    """The MD5 (hex) that the store tells, or that its ETag looks like."""
    if told := entry.get("md5Hash"):
        return base64.b64decode(told).hex()
    etag = str(entry.get("ETag") or "").strip('"')
    return etag if _MD5.fullmatch(etag) else None


def _sums(text: bytes) -> dict[str, str]:
    """What ``sha256sum`` wrote: hash by name."""
    found = (_SUM.fullmatch(line) for line in text.decode("utf-8", "replace").splitlines())
    return {match[2].removeprefix("./"): match[1] for match in found if match}


def _version(entry: dict[str, Any]) -> str:
    marks = [entry.get(key) for key in ("size", "ETag", "etag", "md5Hash", "LastModified", "mtime", "created")]
    return "|".join(str(mark) for mark in marks if mark is not None)


def _not_copied(shown: str, error: Exception) -> JobError:
    return JobError(f"the model {shown} cannot be copied ({type(error).__name__}): try again")
