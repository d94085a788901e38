"""What a model's own files may ask of the libraries that load it: numbers from safetensors or GGUF, and nothing else.

`actors.model_files` looks at names. Here the small JSON files are read, because they too can lead a library to a pickle
(a weight index that names one), to code (attention kernels from the hub, an adapter's base model elsewhere) or into an
endless loop (a billion layers). None of these checks is made where the config has ``allow_unsafe_models``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from actors.errors import UserError
from actors.gguf_header import check_gguf
from actors.model_files import PICKLES, TRUST

_MOST_BYTES = 32 << 20
_MOST_LAYERS = 4096


def check_contents(root: Path, names: Iterable[str], where: str) -> None:
    """Refuses a local model whose configs lead elsewhere, and a GGUF file whose header lies.

    Args:
        root: the model's directory.
        names: its relevant files, relative to ``root``.
        where: the model, for messages.

    Raises:
        UserError: names the file and what it asks for.
    """
    for name in names:
        path, last = root / name, PurePosixPath(name).name
        if last.endswith(".gguf"):
            try:
                check_gguf(path)
            except (ValueError, OSError) as error:
                raise UserError(f"the model {where} cannot be loaded ({name}): {error}") from error
        elif ".safetensors.index." in last:  # model.safetensors.index.json, or with a variant before its suffix
            _check_index(_read(path, name, where), name, where)
        elif last == "adapter_config.json":
            raise UserError(
                f"the model {where} is an adapter, whose base model lies elsewhere ({name}): merge the two into one "
                f"directory, or {TRUST}"
            )
        elif last == "config.json":
            _check_config(_read(path, name, where), name, where)


def check_adapter(root: Path, names: Iterable[str], where: str) -> None:
    """Refuses what is no LoRA adapter in safetensors. Raises `UserError`."""
    if not any(name.endswith(".safetensors") for name in names) or any(
        PurePosixPath(name).suffix in PICKLES or name.endswith(".gguf") for name in names
    ):
        raise UserError(f"the LoRA adapter {where} is not in safetensors: convert it")
    for name in names:
        if PurePosixPath(name).name == "adapter_config.json":
            told = _read(root / name, name, where)
            kind = told.get("peft_type") if isinstance(told, dict) else None
            if kind != "LORA":
                raise UserError(f"the adapter {where} is no LoRA ({name}: peft_type is {str(kind)[:40]!r})")


def _read(path: Path, name: str, where: str) -> Any:
    if path.stat().st_size > _MOST_BYTES:
        raise UserError(f"the model {where} cannot be loaded: {name} is larger than {_MOST_BYTES >> 20} MiB")
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None  # whoever loads it says so, in its own words
    except RecursionError as error:
        raise UserError(f"the model {where} cannot be loaded: {name} is nested too deeply") from error


def _check_index(told: Any, name: str, where: str) -> None:
    """A weight index may name files beside it that hold numbers alone: transformers would unpickle any other."""
    weights = told.get("weight_map") if isinstance(told, dict) else None
    for file in set(weights.values() if isinstance(weights, dict) else ()):
        if not isinstance(file, str) or not file.endswith(".safetensors") or "/" in file or "\\" in file:
            raise UserError(
                f"the model {where} would be read from {str(file)[:80]!r}, as {name} says, and that is no safetensors "
                f"file beside it: convert it, or {TRUST}"
            )


def _check_config(told: Any, name: str, where: str) -> None:
    for key, value in _walk(told):
        # attn_implementation, _experts_implementation_internal, ...: a name with a slash is a repository of kernels.
        if key.removesuffix("_internal").endswith("_implementation") and "/" in str(value):
            raise UserError(f"the model {where} asks for code from the hub ({name}: {key}): take that out, or {TRUST}")
        if key == "trust_remote_code" and value:
            raise UserError(f"the model {where} asks for trust itself ({name}: {key}): take that out, or {TRUST}")
        if key == "transformers_weights" and PurePosixPath(str(value)).suffix in PICKLES:
            raise UserError(f"the model {where} would be read from a pickle ({name}: {key}): convert it, or {TRUST}")
        if "layers" in key and isinstance(value, int) and value > _MOST_LAYERS:
            raise UserError(f"the model {where} cannot be loaded: {name} says {key}={value}, more than {_MOST_LAYERS}")


def _walk(told: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of all mappings in a JSON value."""
    waiting = [told]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
