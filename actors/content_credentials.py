"""C2PA content credentials: a manifest that says a trained model made the image, signed last over the finished file.

The signature and the manifest's own ids are random, so a signed image is another file each time it is made. "Same
fingerprint, same bytes" then holds for pixels, rows and marks, not for files. Nothing else changes: the first data
object that landed is the shard, its record holds *its* digests, and a resumed run adopts it; only a shard that is made
again (after a repair) has other signatures. The fingerprint says that images are signed and by which algorithm, not by
whom, so that a renewed certificate goes on with the same dataset.

The private key is read where images are made, from a file or an environment variable there; it is never part of a
config, a record, a fingerprint, a log or a message.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.errors import UserError
from actors.marks import TRAINED_ALGORITHMIC_MEDIA

# No answer of the network belongs into what an image says, and no file may make a reader call anybody.
_READING = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
_SIGNING = {"builder": {"thumbnail": {"enabled": False}}, **_READING}


@dataclass(frozen=True)
class CredentialSettings:
    """Where a signer is found, never what it is.

    Args:
        certificate: PEM file: the signer's certificate first, then those above it.
        key: PEM file of the private key (PKCS 8), or ``env:NAME`` of a variable that holds it.
        algorithm: as C2PA names it, e.g. ``es256``.
        timestamp_url: RFC 3161 service that is asked for each image; None = no time stamp.
        version: of promptmill.
    """

    certificate: str
    key: str
    algorithm: str
    timestamp_url: str | None
    version: str


class ImageSigner:
    """Signs finished image files; safe to share between threads."""

    def __init__(self, settings: CredentialSettings) -> None:
        """Reads certificate and key, and signs a trial picture.

        Raises:
            UserError: the extra is not installed, a file or variable is missing, or the signer does not work.
        """
        if not installed():
            raise UserError("output.c2pa needs the extra `c2pa`: pip install 'promptmill[c2pa]'")
        self._settings = settings
        self._chain = _read(settings.certificate, "output.c2pa.certificate")
        self._key = _read_key(settings.key)
        self._own = threading.local()
        self.sign(_trial(), "image/png", "trial")

    def sign(self, data: bytes, media_type: str, title: str) -> bytes:
        """The same image with a signed manifest inside.

        Raises:
            UserError: the signer or its time stamp service refuses.
        """
        import c2pa

        target = io.BytesIO()
        try:
            if not hasattr(self._own, "signer"):
                own = self._settings
                url = own.timestamp_url.encode() if own.timestamp_url else None
                info = c2pa.C2paSignerInfo(own.algorithm.encode(), self._chain, self._key, url)
                self._own.signer = c2pa.Signer.from_info(info)
                self._own.context = c2pa.Context.from_dict(_SIGNING)
            builder = c2pa.Builder(_manifest(title, self._settings.version), self._own.context)
            builder.sign(self._own.signer, media_type, io.BytesIO(data), target)
        except c2pa.C2paError as error:
            # The library's text may quote what it was given: only the kind of its error is told.
            raise UserError(
                f"output.c2pa cannot sign ({type(error).__name__.lstrip('_')}): check that the key belongs to the "
                f"certificate, that the chain is whole and in date, and that it is for {self._settings.algorithm}"
            ) from None
        return target.getvalue()


def installed() -> bool:
    """Whether the extra ``c2pa`` is there."""
    return importlib.util.find_spec("c2pa") is not None


def read_credentials(data: bytes, media_type: str) -> list[str]:
    """What an image's C2PA manifest says, one line each; asks nobody over the network."""
    if not installed():
        there = b"c2pa" in data and b"jumb" in data
        return ["a manifest seems to be inside; pip install 'promptmill[c2pa]' to read it" if there else "no manifest"]
    import c2pa

    try:
        reader = c2pa.Reader(media_type, io.BytesIO(data), context=c2pa.Context.from_dict(_READING))
        store = json.loads(reader.json())
    except c2pa.C2paError as error:
        if "ManifestNotFound" in type(error).__name__:
            return ["no manifest"]
        return [f"a manifest that cannot be read ({type(error).__name__.lstrip('_')})"]
    active: dict[str, Any] = store["manifests"][store["active_manifest"]]
    signature = active.get("signature_info", {})
    lines = [f"a manifest, {str(store.get('validation_state', 'unknown')).lower()}"]
    lines.append(
        f"signed by {signature.get('common_name')} ({signature.get('issuer')}), {signature.get('alg')}, "
        + (f"at {signature['time']}" if signature.get("time") else "no time stamp")
    )
    lines += [str(one.get("code")) for one in store.get("validation_status") or []]
    for assertion in active.get("assertions", []):
        for action in assertion.get("data", {}).get("actions", []) if "actions" in assertion.get("label", "") else []:
            lines.append(f"{action.get('action')}, {action.get('digitalSourceType') or 'no digitalSourceType'}")
    return lines


def _manifest(title: str, version: str) -> dict[str, Any]:
    agent = {"name": "promptmill", "version": version}
    created = {
        "action": "c2pa.created",
        "digitalSourceType": TRAINED_ALGORITHMIC_MEDIA,
        "softwareAgent": agent,
    }
    return {
        "claim_generator_info": [agent],
        "title": title,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }


def _read(path: str, option: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"{option}: cannot read '{path}' here ({type(error).__name__})") from error


def _read_key(key: str) -> bytes:
    if not key.startswith("env:"):
        return _read(key, "output.c2pa.key")
    name = key.removeprefix("env:")
    value = os.environ.get(name)
    if not value:
        raise UserError(f"output.c2pa.key: the environment variable {name} is not set where images are made")
    return value.encode()


def _trial() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()
