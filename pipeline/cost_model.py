"""What work costs on GPUs: one model for `promptmill plan` (rates measured) and `models recommend` (rates by rule).

From rates to hours and money, `bill` is the same for both. Before anything was measured, rates come from the roofline:
a GPU's arithmetic and its memory bandwidth, each by the share that such work reaches, and a least time for a step.
Those are rules of thumb, held against published figures in docs/models.md; a result may be wrong by a factor of two,
which a calibration settles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.catalogue import Gpu, ImageModel, LanguageModel
from pipeline.cost import Prices

USABLE = 0.92
"""Share of a GPU's memory that a model may plan with."""
CONTEXT_GIB = 0.75
"""CUDA context and libraries of one process."""
TEXT_GIB = 1.0
"""What a language model needs beside weights and cache."""
IMAGE_GIB_A_MEGAPIXEL = 2.25
"""What an image's decoding needs beside the weights."""
ARITHMETIC = 0.4
"""Share of a data sheet's TFLOP/s that a model reaches."""
IMAGE_STEP_SECONDS = 0.015
"""What a denoising step of one image takes at least: the GPU waits for its next kernel."""
TEXT_STEP_SECONDS = 0.005
"""What a token of each row of a batch takes at least."""
BANDWIDTH = 0.6
"""Share of a data sheet's GB/s at which weights are read while text is written."""
OFFLOADED = 0.33
"""Speed of a pipeline whose models wait in the machine's memory, against one that lies on the GPU."""
ROWS_AT_ONCE = 128
PROMPT_TOKENS = 80
NEW_TOKENS = 64
"""A row of the expand stage: the recipe's part is cached and counts once."""


@dataclass(frozen=True)
class StageWork:
    """A stage's work in hours of one actor, and the pool that does it; ``cpus`` and ``gpus`` are of one actor."""

    actor_hours: float
    actors: int
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Bill:
    """``hours`` on the clock, CPU and GPU hours at work, and the price of the pools while the clock runs (or None)."""

    hours: float
    cpu_hours: float
    gpu_hours: float
    cost: float | None


def bill(stages: Sequence[StageWork], prices: Prices) -> Bill:
    """Adds stages up. They overlap, so the slowest sets the pace, and all pools are held until it is done."""
    hours = max((stage.actor_hours / stage.actors for stage in stages), default=0.0)
    held = {
        "CPU": sum(stage.actors * stage.cpus for stage in stages),
        "GPU": sum(stage.actors * stage.gpus for stage in stages),
    }
    priced = prices.cpu_hour is not None or prices.gpu_hour is not None
    return Bill(
        hours,
        sum(stage.actor_hours * stage.cpus for stage in stages),
        sum(stage.actor_hours * stage.gpus for stage in stages),
        prices.machines(held, hours * 3600) if priced else None,
    )


@dataclass(frozen=True)
class Fit:
    """How a model fits a GPU: config values, memory of one actor on each of its GPUs (GiB), and its speed.

    ``per_second`` counts images, or descriptions, of one actor.
    """

    model: ImageModel | LanguageModel
    dtype: str
    quantize: str | None
    placement: str
    gpus: int
    gib: float
    per_second: float


def fit_image(model: ImageModel, gpu: Gpu, most_gpus: int, steps: int | None = None) -> Fit | None:
    """The best way to run an image model: whole, then with 8 bits, then over GPUs, then offloaded; None: no way."""
    room, parts = gpu.gib * USABLE, model.parameters
    extra = CONTEXT_GIB + IMAGE_GIB_A_MEGAPIXEL * model.side**2 / 1e6
    speed = 1 / (steps or model.steps) / (model.tflop * model.passes / (gpu.tflops * ARITHMETIC) + IMAGE_STEP_SECONDS)
    rest = gib(parts.text + parts.decoder, 2)
    whole = gib(parts.denoiser, 2) + rest + extra
    if whole <= room:
        return Fit(model, gpu.dtype, None, "device", 1, whole, speed)
    small = gib(parts.denoiser, 1) + rest + extra
    if small <= room:
        return Fit(model, gpu.dtype, "torchao_int8", "device", 1, small, speed)
    largest = max(gib(parts.denoiser, 2), gib(parts.text, 2)) + extra
    if most_gpus >= 2 and largest <= room:
        return Fit(model, gpu.dtype, None, "balanced", 2, largest, speed)
    if largest <= room:
        return Fit(model, gpu.dtype, None, "offload_models", 1, largest, speed * OFFLOADED)
    return None


def fit_language(model: LanguageModel, gpu: Gpu, most_gpus: int) -> Fit | None:
    """The fewest GPUs that hold a language model with a cache for 16 rows and more, in vLLM; None: not that many."""
    row = (PROMPT_TOKENS + NEW_TOKENS + 512) * 2 * model.layers * model.heads * model.head * 2 / 2**30
    for gpus in (1, 2, 4, 8):
        weights = gib(model.parameters, 2) / gpus
        left = gpu.gib * USABLE - CONTEXT_GIB - TEXT_GIB - weights
        rows = min(ROWS_AT_ONCE, int(left * gpus / row)) if left > 0 else 0
        if gpus <= most_gpus and rows >= 16:
            active = model.active or model.parameters
            arithmetic = gpu.tflops * gpus * ARITHMETIC
            reading = gib(model.parameters, 2) * 2**30 / (gpu.bandwidth * 1e9 * BANDWIDTH * gpus)
            step = max(reading, 2e-3 * active * rows / arithmetic, TEXT_STEP_SECONDS)
            seconds = 2e-3 * active * PROMPT_TOKENS / arithmetic + NEW_TOKENS * step / rows
            return Fit(
                model, gpu.dtype, None, "device", gpus, weights + CONTEXT_GIB + 1.0 + 16 * row / gpus, 1 / seconds
            )
    return None


def gib(billions: float, bytes_each: float) -> float:
    """GiB of so many parameters."""
    return billions * 1e9 * bytes_each / 2**30
