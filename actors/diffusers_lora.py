"""LoRA adapters on a pipeline of `diffusers`: all of a file arrives, or none is rendered with.

diffusers goes on with a warning where an adapter was made for another model, in whole or in part: images would look as
if there were none. Here its warnings of keys that found no layer, and an adapter without any layer, are errors.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from actors.errors import UserError

_DEFAULT_FILE = "pytorch_lora_weights.safetensors"


def load_loras(pipe: Any, files: Sequence[Path], scales: Sequence[float], *, fuse: bool) -> None:
    """Puts adapters on a pipeline, which is still on the CPU.

    Args:
        files: each a safetensors file, or a directory that holds one (`pytorch_lora_weights.safetensors`, or the only).
        scales: how strongly each takes part, 1 as it was trained; none = all 1.
        fuse: adds them to the weights, which is as fast as without; the sums are rounded to the weights' format.

    Raises:
        UserError: peft is not installed, or a file is no adapter of this pipeline.
    """
    names = [f"lora{number}" for number in range(len(files))]
    for name, path in zip(names, files, strict=True):
        file = _weights(path)
        if not hasattr(pipe, "load_lora_weights"):
            raise UserError(f"{type(pipe).__name__} takes no LoRA: leave out generate.diffusers.loras")
        try:
            with _warnings() as told:
                pipe.load_lora_weights(
                    str(file.parent), weight_name=file.name, adapter_name=name, use_safetensors=True,
                    local_files_only=True,
                )  # fmt: skip
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if "PEFT" in str(error):
                raise UserError("LoRA needs peft, which is not installed: pip install promptmill[diffusers]") from error
            raise UserError(f"{path} cannot be loaded as a LoRA of this model: {_line(str(error))}") from error
        lost = [line for line in told if "unexpected keys" in line or "missing keys" in line]
        if lost or not _layers(pipe, name):
            why = _line(lost[0]) if lost else "none of its keys names a layer of this one"
            raise UserError(f"{path} is a LoRA of another model: {why}")
    if not names:
        return
    pipe.set_adapters(names, adapter_weights=list(scales) or [1.0] * len(names))
    if fuse:
        pipe.fuse_lora(adapter_names=names)
        pipe.unload_lora_weights()


def _weights(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob("*.safetensors"))
    if len(found) > 1:
        found = [file for file in found if file.name == _DEFAULT_FILE] or found
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:3])
        raise UserError(f"{path} holds {'several LoRAs (' + names + '): name one file' if found else 'no LoRA'}")
    return found[0]


def _layers(pipe: Any, name: str) -> int:
    """Weights of the adapter in all parts of the pipeline."""
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return sum(f".{name}." in key for part in parts for key, _ in part.named_parameters())


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the loaders of diffusers warn of, kept out of the log: most of it is about parts that have no adapter."""
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(f"diffusers.{name}") for name in ("loaders", "utils")]
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield told
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.propagate = propagate


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
