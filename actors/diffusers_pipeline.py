"""Opens a text-to-image pipeline directory of `diffusers`, and refuses what would render noise or run foreign code.

**Prompts are never logged.** diffusers' pipelines warn by quoting the part of a prompt that the text encoder cut off:
their loggers are raised to errors for the whole process.

**No weight is made up.** Where a file lacks a tensor, transformers draws it at random and says so in a warning; a job
would then fill a dataset with noise, another noise in every process. Here it is an error.
"""

from __future__ import annotations

import difflib
import json
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from actors.errors import UserError
from actors.model_files import TRUST
from actors.offline import offline
from actors.whole_weights import load_whole

_LIBRARIES = (None, "diffusers", "transformers")


def load_pipeline(model_dir: Path, dtype: torch.dtype, variant: str | None, *, trusted: bool = False) -> Any:
    """Loads a pipeline from a local directory: nothing is fetched, no code of it is run, no pickle is read.

    Args:
        model_dir: in diffusers' layout (``model_index.json``, a folder for each part), weights in safetensors.
        dtype: of all weights.
        variant: of the weight files, such as ``fp16``.
        trusted: the config's ``allow_unsafe_models``: code of the directory is run and pickles are read all the same.

    Returns:
        The `DiffusionPipeline` on the CPU, with a safety checker if the directory has one.

    Raises:
        UserError: diffusers is not installed, or the directory is no complete text-to-image pipeline.
    """
    if not (model_dir / "model_index.json").is_file():
        raise UserError(f"{model_dir} is not a diffusers pipeline: it has no model_index.json")
    with _quiet_loading(), offline():
        try:
            import transformers
            from diffusers import AutoPipelineForText2Image, pipelines
            from diffusers.utils import logging as diffusers_logging
            from transformers.utils import logging as transformers_logging
        except ImportError as error:
            raise UserError("the diffusers backend is not installed: pip install promptmill[diffusers]") from error
        for library in (diffusers_logging, transformers_logging):
            library.disable_progress_bar()  # a job has progress of its own
        logging.getLogger("diffusers.pipelines").setLevel(logging.ERROR)
        try:
            index = json.loads((model_dir / "model_index.json").read_text("utf-8"))
            if not trusted:
                _refuse_code(model_dir, index, pipelines)
            options = {
                "variant": variant, "use_safetensors": None if trusted else True, "local_files_only": True,
                "trust_remote_code": trusted,
            }  # fmt: skip
            text_models = _text_models(transformers, model_dir, index, dtype=dtype, **options)
            pipe = AutoPipelineForText2Image.from_pretrained(
                str(model_dir), torch_dtype=dtype, **options, **text_models
            )
        except (torch.OutOfMemoryError, UserError):
            raise
        except Exception as error:
            # The libraries raise a dozen types here, for files that are missing, damaged, pickled or of another task.
            if not trusted and not any(model_dir.rglob("*.safetensors")):
                raise UserError(
                    f"{model_dir} has no weights in safetensors; pickled weights are not read: convert them, or {TRUST}"
                ) from error
            raise UserError(f"{model_dir} cannot be loaded as a text-to-image pipeline: {_line(error)}") from error
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            _refuse_missing(model_dir / name, [key for key, weight in part.named_parameters() if weight.is_meta])
    pipe.set_progress_bar_config(disable=True)
    return pipe


def fitting_scheduler(current: Any, name: str) -> Any:
    """The scheduler with class name ``name``, with the configuration of the pipeline's own.

    Raises:
        UserError: no such scheduler fits the pipeline (the nearest name is in the message), or it needs a package.
    """
    fitting = {scheduler.__name__: scheduler for scheduler in (*current.compatibles, type(current))}
    if name not in fitting:
        nearest = difflib.get_close_matches(name, fitting, n=1, cutoff=0.0)[0]
        names = ", ".join(sorted(fitting))
        raise UserError(f"no scheduler {name!r} fits this pipeline: did you mean {nearest}? It takes {names}")
    try:
        return fitting[name].from_config(current.config)
    except ImportError as error:
        raise UserError(f"scheduler {name} needs a package that is not installed: {_line(error)}") from error


def size_multiple(pipe: Any) -> int:
    """What sides must be multiples of, in pixels: the decoder's factor, times the patch that the transformer packs."""
    factor = int(getattr(pipe, "vae_scale_factor", 8)) * int(getattr(pipe, "patch_size", None) or 1)
    processor = getattr(pipe, "image_processor", None)
    return math.lcm(factor, int(getattr(getattr(processor, "config", None), "vae_scale_factor", 1)))


def _refuse_code(model_dir: Path, index: Any, pipelines: Any) -> None:
    """Older releases of diffusers import whatever module ``model_index.json`` names, and importing is running it."""
    told = index if isinstance(index, dict) else {}
    own = [f"{name}: {entry[0]}" for name, entry in told.items() if isinstance(entry, list) and name[:1] != "_"
           and entry and entry[0] not in _LIBRARIES and not hasattr(pipelines, str(entry[0]))]  # fmt: skip
    if not isinstance(told.get("_class_name", ""), str):
        own.append("_class_name")
    if own:
        raise UserError(f"{model_dir} cannot be loaded: it needs code of its own ({str(own[0])[:80]}): {TRUST}")


def _text_models(transformers: Any, model_dir: Path, index: Any, **options: Any) -> dict[str, Any]:
    """The parts that transformers loads, by name: loaded here, because only this way does it tell what it made up."""
    models: dict[str, Any] = {}
    for name, entry in index.items():
        if not (isinstance(entry, list) and len(entry) == 2 and entry[0] == "transformers"):
            continue
        kind: Any = getattr(transformers, str(entry[1]), None)
        is_model = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
        if is_model:
            models[name] = load_whole(kind, model_dir / name, **options)
    return models


def _refuse_missing(part: Path, missing: list[str]) -> None:
    if missing:
        raise UserError(f"the weights in {part} are incomplete: {missing[0]} is missing ({len(missing)} in all)")


def _line(error: Exception) -> str:
    """An exception of a library in one line that ends somewhere."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Keeps the libraries' advice and deprecations out of a job's log; what matters of it is checked or raised."""
    levels = {name: logging.getLogger(name).level for name in ("transformers", "diffusers.models")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # `torch_dtype` is deprecated for `dtype`, which the oldest diffusers that we support does not know.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
