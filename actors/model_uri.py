"""Model URIs: from what the config says to a local directory (or GGUF file) and the hash of its content.

path, file://...        a directory, or a .gguf file, used where it lies
package:NAME[/sub/dir]  files inside an installed import package, found without importing it
s3://..., gs://...      any fsspec store: copied once a node into the cache
org/name                a hub model from the local hub cache; never downloads
hf://org/name[@rev]     the same, downloaded where it is missing
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from actors.errors import JobError, UserError
from actors.model_cache import default_cache
from actors.model_files import PICKLES, SAFE_WEIGHTS, TRUST, check_weights, content_hash, list_files, relevant
from actors.model_gate import check_adapter, check_contents
from actors.store_copy import copy_from_store

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model on this machine.

    Attributes:
        path: its directory, or its .gguf file.
        sha256: hash over the names and bytes of its relevant files; the same on every machine.
        uri: what the config said, without credentials.
        trusted: the config's ``allow_unsafe_models``: pickles may be read, and the model's own code run.
    """

    path: Path
    sha256: str
    uri: str
    trusted: bool = False


def resolve_model(
    uri: str,
    *,
    cache: Path | None = None,
    allow_unsafe: bool | None = False,
    expect: str | None = None,
    adapter: bool = False,
) -> LocalModel:
    """Finds the model (copying it to this node where need be), and checks that it is safe to load.

    Args:
        uri: see the module's table.
        cache: where copies go; ``None`` means `default_cache`.
        allow_unsafe: the config's ``allow_unsafe_models``: pickles and the model's own code are allowed too; None where
            whoever loads the model reads numbers alone, so that no opt-in is offered.
        expect: the ``sha256`` that it must have: each node finds its own copy, and a run's must all be one model.
        adapter: it is a LoRA adapter, which has no base model of its own.

    Raises:
        UserError: no such model, no weights in it, or pickles (see `actors.model_gate` too) without the opt-in.
        JobError: the store or hub did not answer, or it is another model than the expected one.
    """
    cache = cache or default_cache()
    shown = _without_secrets(uri)
    path = _locate(uri, shown, cache, allow_unsafe)
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix in PICKLES and not allow_unsafe:
            mend = "give it in safetensors" if allow_unsafe is None else TRUST
            raise UserError(f"the model {shown} may run code when it is read: {mend}")
        if suffix not in SAFE_WEIGHTS | PICKLES:
            raise UserError(f"the model {shown} is a file of unknown kind: give a directory or a .gguf file")
        root, wanted = path.parent, [path.name]
    else:
        names = list_files(path)
        check_weights(names, shown, allow_unsafe=allow_unsafe)
        root, wanted = path, relevant(names, allow_unsafe=allow_unsafe)
    if adapter:
        check_adapter(root, wanted, shown)
    elif not allow_unsafe:
        check_contents(root, wanted, shown)
    found = content_hash(root, wanted, cache)
    if expect is not None and found != expect:
        raise JobError(
            f"the model {shown} is another one on this node (sha256 {found[:12]}) than the run began with "
            f"({expect[:12]}): give all nodes the same files, and do not change them during a run"
        )
    return LocalModel(path, found, shown, bool(allow_unsafe))


def _locate(uri: str, shown: str, cache: Path, allow_unsafe: bool | None) -> Path:
    if not uri.strip():
        raise UserError("the model URI is empty: give a directory, s3://..., a hub name, or package:NAME")
    if uri.startswith("package:"):
        return _in_package(uri.removeprefix("package:"))
    if uri.startswith("hf://"):
        return _from_hub(uri.removeprefix("hf://"), shown, allow_unsafe, download=True)
    if uri.startswith("file://"):
        return _existing(Path(unquote(urlsplit(uri).path)), shown)
    if "://" in uri:
        return copy_from_store(uri, shown, cache, allow_unsafe=allow_unsafe)
    path = Path(uri).expanduser()
    if not path.exists() and _HUB_NAME.fullmatch(uri) and not uri.startswith("."):
        return _from_hub(uri, shown, allow_unsafe, download=False)
    return _existing(path, shown)


def _existing(path: Path, shown: str) -> Path:
    if not path.exists():
        raise UserError(f"the model {shown} does not exist: give the directory that holds its config and weights")
    return path.absolute()


def _in_package(rest: str) -> Path:
    name, _, inner = rest.partition("/")
    # A dotted name would make Python import the parent package to look inside; none of its code has business here.
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the model package:{rest} names the import package {name!r}, which is not installed here: "
            "install it, or correct the name"
        )
    if ".." in PurePosixPath(inner).parts:
        raise UserError(f"the model package:{rest} leaves its package: name a directory inside it")
    return _existing(Path(next(iter(spec.submodule_search_locations))) / inner, f"package:{rest}")


def _from_hub(rest: str, shown: str, allow_unsafe: bool | None, *, download: bool) -> Path:
    # Imported here: most runs have no hub name, and the import costs time in every actor.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = rest.partition("@")
    try:
        wanted = None
        if download:
            names = HfApi().list_repo_files(name, revision=revision or None)
            check_weights(names, shown, allow_unsafe=allow_unsafe)
            wanted = relevant(names, allow_unsafe=allow_unsafe)
        return Path(
            snapshot_download(name, revision=revision or None, allow_patterns=wanted, local_files_only=not download)
        )
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"the model {shown} is neither a directory here nor in the local hub cache: "
            f"correct the path, or write hf://{name} to download it"
        ) from error
    except HFValidationError as error:
        raise UserError(f"the model {shown} is not a hub name: write hf://organisation/name") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            raise UserError(f"the hub has no model {shown} for you: correct the name, or log in to the hub") from error
        raise JobError(f"the hub answered {status} for the model {shown}: try again later") from error
    except OSError as error:
        raise JobError(
            f"the hub cannot be reached for the model {shown} ({type(error).__name__}): check the network, "
            "or give a directory"
        ) from error


def _without_secrets(uri: str) -> str:
    """The URI as it may be shown: no ``user:password@``, and no query, where signed URLs keep their signature."""
    if "://" not in uri:
        return uri
    parts = urlsplit(uri)
    # The hub writes a revision with an @ in the path; in the authority an @ always follows credentials.
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
