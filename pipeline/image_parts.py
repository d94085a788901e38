"""What the image stage loads beside its model, and whether it starts from pictures of the prompt table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.diffusers_settings import DiffusersSettings
from actors.gan_directory import task_of
from actors.model_uri import resolve_model
from pipeline.config_stages import Generate
from pipeline.storage_errors import public_uri


def reads_pictures(generate: Generate, model: Path) -> bool:
    """Whether a row must have an ``image``; ``model`` is where `generate.model` lies."""
    if generate.backend == "gan":
        return task_of(model) != "words"
    return diffusers_settings(generate).needs_pictures


def diffusers_settings(generate: Generate, hashes: Mapping[str, str | None] | None = None) -> DiffusersSettings:
    """What a diffusers backend is told; ``hashes`` are of the run's models, which all nodes must have the same of."""
    own: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in generate.diffusers
    }
    settings = DiffusersSettings(**own)
    known = {name: told for name in settings.parts() if (told := (hashes or {}).get(name)) is not None}
    return replace(settings, hashes=known)


def part_hashes(generate: Generate, *, allow_unsafe: bool | None) -> dict[str, str]:
    """SHA-256 of what is loaded beside the model, by name. Raises `UserError` where one cannot be loaded safely."""
    return {
        name: resolve_model(uri, allow_unsafe=None if "lora" in name else allow_unsafe, adapter="lora" in name).sha256
        for name, uri in _parts(generate).items()
    }


def part_places(generate: Generate) -> dict[str, str]:
    """Where they lie, without credentials, by name."""
    return {name: public_uri(uri) for name, uri in _parts(generate).items()}


def _parts(generate: Generate) -> dict[str, str]:
    return diffusers_settings(generate).parts() if generate.backend == "diffusers" else {}
