"""Opens a pipeline directory of `diffusers` that makes images, and refuses what would render noise or run foreign code.

**Prompts are never logged.** diffusers' pipelines warn by quoting the part of a prompt that the text encoder cut off:
their loggers are raised to errors for the whole process.

**No weight is made up.** Where a file lacks a tensor, transformers draws it at random and says so in a warning; a job
would then fill a dataset with noise, another noise in every process. Here it is an error.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from actors.diffusers_quantization import quantization
from actors.diffusers_settings import DiffusersSettings, DiffusersTask
from actors.diffusers_speed import device_map, dispatch
from actors.errors import UserError
from actors.model_files import TRUST
from actors.offline import offline
from actors.whole_weights import load_whole

_DISTILLED = {
    "DDIMScheduler": ("LCMScheduler", "TCDScheduler"), "FlowMatchEulerDiscreteScheduler": ("FlowMatchLCMScheduler",),
}  # fmt: skip
"""Schedulers of distilled models, by one of the family whose configuration they take: diffusers does not list them."""
_NAMES = {"words": "a text-to-image", "image": "an image-to-image", "inpainting": "an inpainting"}
_LIBRARIES = (None, "diffusers", "transformers")


def load_pipeline(
    model_dir: Path,
    settings: DiffusersSettings,
    device: torch.device,
    *,
    trusted: bool = False,
    controlnet: Path | None = None,
) -> Any:
    """Loads a pipeline from a local directory: nothing is fetched, no code of it is run, no pickle is read.

    Args:
        model_dir: in diffusers' layout (``model_index.json``, a folder for each part), weights in safetensors.
        settings: its task, number format, variant, quantisation and placement count here.
        device: where it is to render.
        trusted: the config's ``allow_unsafe_models``: code of the directory is run and pickles are read all the same.
        controlnet: directory of a ControlNet in diffusers' layout.

    Returns:
        The `DiffusionPipeline` on the CPU (or spread over GPUs), with a safety checker if the directory has one. Its
        class is found from the directory's own and the task.

    Raises:
        UserError: diffusers is not installed, or the directory is no complete pipeline for the task.
    """
    if not (model_dir / "model_index.json").is_file():
        raise UserError(f"{model_dir} is not a diffusers pipeline: it has no model_index.json")
    dtype, task = _dtype(settings.dtype, device), settings.task
    with _quiet_loading(), offline():
        try:
            import diffusers
            import transformers
            from diffusers import pipelines
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
                "variant": settings.variant, "use_safetensors": None if trusted else True, "local_files_only": True,
                "trust_remote_code": trusted,
            }  # fmt: skip
            quantised: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
            if settings.quantize is not None:
                quantised = quantization(settings.quantize, settings.quantize_parts, index, dtype, device)
            own = _text_models(transformers, model_dir, index, quantised[1], dtype=dtype, **options)
            texts = list(own)
            if controlnet is not None:
                own["controlnet"] = _controlnet(diffusers, controlnet, torch_dtype=dtype, **options | {"variant": None})
            if quantised[0]:
                options["quantization_config"] = diffusers.PipelineQuantizationConfig(quant_mapping=quantised[0])
            spread = device_map(settings.placement, device)
            pipe = _pipeline_kind(diffusers, index, task, controlled=controlnet is not None).from_pretrained(
                str(model_dir), torch_dtype=dtype, **options, **own, **spread
            )
            if spread:
                dispatch(pipe, [*texts, *(["controlnet"] if controlnet is not None else [])])
            _refuse_other_task(pipe, model_dir, task)
        except (torch.OutOfMemoryError, UserError):
            raise
        except Exception as error:
            # The libraries raise a dozen types here, for files that are missing, damaged, pickled or of another task.
            if not trusted and not any(model_dir.rglob("*.safetensors")):
                raise UserError(
                    f"{model_dir} has no weights in safetensors; pickled weights are not read: convert them, or {TRUST}"
                ) from error
            raise UserError(f"{model_dir} cannot be loaded as {_NAMES[task]} pipeline: {_line(error)}") from error
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            where = controlnet if controlnet is not None and name == "controlnet" else model_dir / name
            _refuse_missing(where, [key for key, weight in part.named_parameters() if weight.is_meta])
    pipe.set_progress_bar_config(disable=True)
    return pipe


def fitting_scheduler(current: Any, name: str | None, options: Mapping[str, Any]) -> Any:
    """The scheduler with class name ``name`` (None: the pipeline's own), configured as that is, but for ``options``.

    Raises:
        UserError: no such scheduler fits the pipeline, or it has no such option (with the nearest name), or it needs a
            package.
    """
    name = type(current).__name__ if name is None else name
    fitting = {scheduler.__name__: scheduler for scheduler in (*current.compatibles, type(current))}
    for family, distilled in _DISTILLED.items():
        if family in fitting:
            fitting |= {other: getattr(importlib.import_module("diffusers"), other) for other in distilled}
    if name not in fitting:
        nearest = difflib.get_close_matches(name, fitting, n=1, cutoff=0.0)[0]
        names = ", ".join(sorted(fitting))
        raise UserError(f"no scheduler {name!r} fits this pipeline: did you mean {nearest}? It takes {names}")
    takes = [key for key in inspect.signature(fitting[name].__init__).parameters if key != "self"]
    for key in options:
        if key not in takes:
            nearest = difflib.get_close_matches(key, takes, n=1, cutoff=0.0)[0]
            raise UserError(f"scheduler {name} has no option {key!r}: did you mean {nearest}?")
    try:
        return fitting[name].from_config(current.config, **options)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"scheduler {name} cannot be set to {dict(options)}: {_line(error)}") from error
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


def _text_models(
    transformers: Any, model_dir: Path, index: Any, quantised: Mapping[str, Any], **options: Any
) -> dict[str, Any]:
    """The parts that transformers loads, by name: loaded here, because only this way does it tell what it made up."""
    models: dict[str, Any] = {}
    for name, entry in index.items():
        if not (isinstance(entry, list) and len(entry) == 2 and entry[0] == "transformers"):
            continue
        kind: Any = getattr(transformers, str(entry[1]), None)
        is_model = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
        if is_model:
            own = {"quantization_config": quantised[name]} if name in quantised else {}
            models[name] = load_whole(kind, model_dir / name, **options, **own)
    return models


def _pipeline_kind(diffusers: Any, index: dict[str, Any], task: DiffusersTask, *, controlled: bool) -> Any:
    """The class that loads the directory for a task: its own where that takes what the task gives (Flux Fill, editing
    models), else the one that diffusers pairs with it."""
    own: Any = getattr(diffusers, str(index.get("_class_name")), None)
    if task != "words" and not controlled and isinstance(own, type) and issubclass(own, diffusers.DiffusionPipeline):
        takes = inspect.signature(own.__call__).parameters
        if {"prompt", "image"} <= takes.keys() and ("mask_image" in takes) == (task == "inpainting"):
            return own
    kinds = {"words": "Text2Image", "image": "Image2Image", "inpainting": "Inpainting"}
    return getattr(diffusers, f"AutoPipelineFor{kinds[task]}")


def _controlnet(diffusers: Any, directory: Path, **options: Any) -> Any:
    try:
        name = str(json.loads((directory / "config.json").read_text("utf-8")).get("_class_name"))
    except (OSError, ValueError, AttributeError):
        name = "None"
    kind: Any = getattr(diffusers, name, None)
    if "ControlNet" not in name or not hasattr(kind, "from_pretrained"):
        raise UserError(f"{directory} is no ControlNet in diffusers' layout: its config.json says _class_name={name}")
    return kind.from_pretrained(str(directory), **options)


def _refuse_other_task(pipe: Any, model_dir: Path, task: DiffusersTask) -> None:
    """A UNet for holes is also given picture and mask: without them its first layer fails on every row."""
    unet, decoder = getattr(pipe, "unet", None), getattr(pipe, "vae", None)
    if task == "inpainting" or unet is None or decoder is None:
        return
    takes, latent = unet.config.in_channels, decoder.config.latent_channels
    if takes > latent and "Pix2Pix" not in type(pipe).__name__:
        raise UserError(
            f"{model_dir} was trained to fill holes (its UNet takes {takes} channels, a picture has {latent}): set "
            "generate.diffusers.task=inpainting, or name another model"
        )


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


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
