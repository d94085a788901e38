"""How a `diffusers` pipeline renders: the choices of a config, as the actor is told them. Imports no library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Placement = Literal["device", "balanced", "offload_models", "offload_layers"]
"""Where the weights lie: on the actor's GPU, spread over its GPUs, or in the machine's memory until they are needed."""

Quantization = Literal["torchao_int8", "torchao_int4", "torchao_float8", "bitsandbytes_8bit", "bitsandbytes_4bit"]
"""The package, and what the weights of linear layers become; activations stay in the pipeline's number format."""

DiffusersTask = Literal["words", "image", "inpainting"]
"""What a row gives beside its words: nothing, a picture to redraw, or a picture and a mask of what to paint in it."""


@dataclass(frozen=True)
class DiffusersSettings:
    """None leaves a choice to the pipeline.

    All but ``attention_slicing``, ``placement`` and ``max_side`` determine the pixels; ``images_per_call``, ``compile``
    and ``vae_slicing`` in their last bits.
    """

    task: DiffusersTask = "words"
    strength: float | None = None
    """How much of a given picture is redrawn, above 0 to 1."""
    controlnet: str | None = None
    """URI of a ControlNet, which takes the row's picture as the shape to follow."""
    controlnet_scale: float | None = None
    loras: tuple[str, ...] = ()
    """URIs of LoRA adapters in safetensors."""
    lora_scales: tuple[float, ...] = ()
    """How strongly each takes part; none = all 1."""
    fuse_loras: bool = False
    """Adds them to the weights: as fast as without, rounded once more."""
    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """``guidance_scale``: how far to follow the prompt; 0 for distilled models such as SD-Turbo."""
    true_cfg_scale: float | None = None
    """Only of pipelines that have it (Flux, Qwen-Image), for rows with a negative prompt; None: theirs, or else 4."""
    scheduler: str | None = None
    """Class name of a scheduler that fits the pipeline, such as ``EulerDiscreteScheduler``."""
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the scheduler's own configuration, such as ``timestep_spacing: trailing``."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the pipeline's call, such as ``guidance_rescale`` or ``timesteps``."""
    quantize: Quantization | None = None
    quantize_parts: tuple[str, ...] = ()
    """Parts of the pipeline that are quantised; none = the one that runs once a step."""
    compile: Literal["off", "blocks", "whole"] = "off"
    """torch.compile of that part: its repeated blocks, which is quicker to begin, or all of it. Each size anew."""
    placement: Placement = "device"
    vae_tiling: bool = False
    """Decodes large images in overlapping tiles: less memory; tiles show faintly."""
    vae_slicing: bool = False
    """Decodes the images of a call one by one: less memory."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """``auto``: float32 on a CPU, on a GPU bfloat16 where it is native and float16 where it is not."""
    variant: str | None = None
    """Weights' variant in the directory, such as ``fp16``."""
    width: int | None = None
    """Pixels, for rows that do not say."""
    height: int | None = None
    """Pixels, for rows that do not say."""
    attention_slicing: bool = False
    """Computes attention in slices: slower, less memory."""
    images_per_call: int = 1
    """Images that go through the pipeline together; more is faster where one leaves a GPU idle."""
    max_side: int = 4096
    """Pixels; larger sides are rejected before they cost anything."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of what is loaded beside the pipeline, by name (see `parts`), that each node must find; may be empty."""

    def parts(self) -> dict[str, str]:
        """URIs of what is loaded beside the pipeline, by the name that the run record has for it."""
        loras = {f"generate_lora_{number:02}": uri for number, uri in enumerate(self.loras)}
        return ({"generate_controlnet": self.controlnet} if self.controlnet else {}) | loras

    @property
    def needs_pictures(self) -> bool:
        """Whether a row must have one."""
        return self.task != "words" or self.controlnet is not None

    def call_options(self) -> dict[str, Any]:
        """Arguments of the pipeline's call that are the same for all rows, where the config sets them."""
        chosen = {
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            "strength": self.strength,
            "controlnet_conditioning_scale": self.controlnet_scale,
        }
        return dict(self.call) | {name: value for name, value in chosen.items() if value is not None}
