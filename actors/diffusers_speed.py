"""Where a pipeline's parts lie and how they are computed: devices, offloading, tiles of the decoder, compilation.

**A compiled kernel depends on its own image alone.** torch.compile would make a kernel for the first size that it sees,
and at the second one that serves all sizes and rounds differently; beyond a limit it would go back to none: what a row
looks like would follow from the rows before it. So each size has a kernel of its own, and the limit is out of reach.
Modes that choose kernels by timing them (max-autotune) are not offered: two actors would choose differently.
"""

from __future__ import annotations

import functools
import logging
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import torch

from actors.diffusers_settings import DiffusersSettings, Placement
from actors.errors import UserError

_log = logging.getLogger(__name__)
_MOST_KERNELS = 1024


def device_map(placement: Placement, device: torch.device) -> dict[str, Any]:
    """Arguments that spread a pipeline over the actor's GPUs while it is loaded.

    Raises:
        UserError: the actor has one GPU alone.
    """
    if placement != "balanced" or device.type != "cuda":
        return {}
    if torch.cuda.device_count() < 2:
        raise UserError("generate.diffusers.placement=balanced spreads a model over GPUs: set generate.actors.gpus=2")
    return {"device_map": "balanced"}


def dispatch(pipe: Any, names: Sequence[str]) -> None:
    """Brings parts that were loaded by themselves to where a spread pipeline's map wants them."""
    from accelerate import dispatch_model

    for name in names:
        where = pipe.hf_device_map.get(name)
        if where is not None:
            dispatch_model(getattr(pipe, name), {"": where}, force_hooks=True)


def place(pipe: Any, settings: DiffusersSettings, device: torch.device) -> None:
    """Brings a loaded pipeline to where it renders; on a CPU there is one place, whatever the settings say.

    Raises:
        UserError: the pipeline cannot do what a setting asks for.
    """
    if settings.attention_slicing:
        pipe.enable_attention_slicing()
    for wanted, method in ((settings.vae_tiling, "enable_tiling"), (settings.vae_slicing, "enable_slicing")):
        if wanted:
            decoder = getattr(pipe, "vae", None)
            if not hasattr(decoder, method):
                raise UserError(f"{type(pipe).__name__} cannot: leave out generate.diffusers.vae_{method[7:]}")
            getattr(decoder, method)()
    if settings.compile != "off":
        _compile(pipe, settings.compile)
    if device.type == "cpu":
        if settings.placement != "device":
            _log.info("generate.diffusers.placement=%s changes nothing on a CPU", settings.placement)
    elif settings.placement == "offload_models":
        pipe.enable_model_cpu_offload()
        return
    elif settings.placement == "offload_layers":
        pipe.enable_sequential_cpu_offload()
        return
    elif settings.placement == "balanced":
        return
    pipe.to(device)


@functools.cache
def _kernels() -> tempfile.TemporaryDirectory[str]:
    """Where this process keeps compiled kernels; gone with it."""
    return tempfile.TemporaryDirectory(prefix="promptmill-kernels-")


def denoiser(pipe: Any) -> tuple[str, Any]:
    """Name and module of the part that runs once a step. Raises `UserError` where there is none."""
    for name in ("transformer", "unet"):
        part = getattr(pipe, name, None)
        if isinstance(part, torch.nn.Module):
            return name, part
    raise UserError(f"{type(pipe).__name__} has neither transformer nor unet: leave out generate.diffusers.compile")


def _compile(pipe: Any, how: str) -> None:
    # Kernels that a killed actor had half written would be read by all that come after it on this machine, and no row
    # could be rendered there any more (seen: "file too short"): each process has a place of its own, and compiles.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = _kernels().name
    torch._dynamo.config.recompile_limit = _MOST_KERNELS
    torch._dynamo.config.accumulated_recompile_limit = _MOST_KERNELS * 16
    name, part = denoiser(pipe)
    if how == "whole":
        part.compile(dynamic=False)
        return
    try:
        part.compile_repeated_blocks(dynamic=False)
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{type(part).__name__}, the {name} of this pipeline, has no blocks that diffusers knows: set "
            "generate.diffusers.compile=whole"
        ) from error
