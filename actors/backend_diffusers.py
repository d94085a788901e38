"""Renders with any text-to-image pipeline directory of `diffusers`: Stable Diffusion, SDXL, SD3, Flux, ...

**An image depends on its own job alone.** Kernels of another batch size round differently: measured on a CPU, an image
in a batch of four differs from the same image alone in a few pixels by one level in float32, and in up to a third of
them in bfloat16; between places in a batch of one shape nothing differs. Some pipelines also pad a prompt to the
longest of its batch. So every call of the pipeline has one fixed number of images (``images_per_call``, a short last
call is filled up), and with the default of 1 the promise holds on any device by construction.
"""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from actors.contracts import ImageJob, Pixels
from actors.device import is_out_of_memory
from actors.diffusers_pipeline import fitting_scheduler, load_pipeline, size_multiple
from actors.errors import RowError, UserError
from actors.images import SomeRowsError, to_pixels
from actors.seeds import image_generator

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DiffusersSettings:
    """How a pipeline renders; None leaves a choice to the pipeline.

    All but ``attention_slicing`` and ``max_side`` determine the pixels, ``images_per_call`` in their last bits.
    """

    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """``guidance_scale``: how far to follow the prompt; 0 for distilled models such as SD-Turbo."""
    true_cfg_scale: float | None = None
    """Only of pipelines that have it (Flux, Qwen-Image), for rows with a negative prompt; None: theirs, or else 4."""
    scheduler: str | None = None
    """Class name of a scheduler that fits the pipeline, such as ``EulerDiscreteScheduler``."""
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


class DiffusersBackend:
    """One loaded pipeline on one device. Not thread-safe."""

    def __init__(
        self, model_dir: str | Path, device: torch.device, settings: DiffusersSettings, *, trusted: bool = False
    ) -> None:
        """Loads the pipeline; its safety checker is there if the directory has one.

        Args:
            model_dir: a local directory in diffusers' layout, weights in safetensors. Nothing is fetched, no code of
                the directory is run, no pickle is read.
            device: where to render.
            settings: how to render.
            trusted: pickled weights are read and code of the directory is run all the same.

        Raises:
            UserError: diffusers is not installed, the directory is no such pipeline, or a setting does not fit it.
        """
        if settings.images_per_call < 1:
            raise UserError(f"images_per_call is {settings.images_per_call}: it must be at least 1")
        self._settings = settings
        self._pipe = load_pipeline(Path(model_dir), _dtype(settings.dtype, device), settings.variant, trusted=trusted)
        self._parameters = inspect.signature(self._pipe.__call__).parameters
        if settings.scheduler is not None:
            self._pipe.scheduler = fitting_scheduler(self._pipe.scheduler, settings.scheduler)
        for name, value in (("num_inference_steps", settings.steps), ("guidance_scale", settings.guidance)):
            if value is not None and name not in self._parameters:
                raise UserError(f"{type(self._pipe).__name__} has no {name}: leave it out of the config")
        if settings.attention_slicing:
            self._pipe.enable_attention_slicing()
        self._pipe.to(device)
        self._device = device
        self._rows = settings.images_per_call
        self._multiple = size_multiple(self._pipe)
        try:
            self._check_size(settings.width, settings.height)
        except RowError as error:
            raise UserError(f"the image size in the config cannot be made: {error.detail}") from error

    def check(self, job: ImageJob) -> None:
        """Raises `RowError` for an empty text, a size or a negative prompt that this pipeline cannot do."""
        if not job.text.strip():
            raise RowError("empty_text", "there is no text to render")
        self._check_size(job.width, job.height)
        if job.negative_text is not None and "negative_prompt" not in self._parameters:
            raise RowError("no_negative_prompt", f"{type(self._pipe).__name__} cannot take a negative prompt")

    def render(self, jobs: Sequence[ImageJob]) -> list[Pixels]:
        """Renders one micro-batch, in order, ``images_per_call`` at a time.

        Raises:
            SomeRowsError: some images are not finite (``"not_finite"``), were withheld by the pipeline's safety checker
                (``"unsafe"``), or came out in another size (``"bad_size"``).
            Exception: whatever the pipeline raises, out of memory included.
        """
        results: list[Pixels | RowError] = []
        for call in self._calls(jobs):
            try:
                results.extend(self._render_call(call))
            except Exception as error:
                if self._rows > 1 and is_out_of_memory(error):
                    # The caller halves the micro-batch and comes again; without this, filling up would undo that.
                    self._rows //= 2
                    _log.warning("out of memory: from now on %d images go through the pipeline at once", self._rows)
                raise
        if any(isinstance(result, RowError) for result in results):
            raise SomeRowsError(results)
        return [result for result in results if not isinstance(result, RowError)]

    def _calls(self, jobs: Sequence[ImageJob]) -> Iterator[list[ImageJob]]:
        """Slices of ``jobs``, in order, whose rows can share one call."""
        for _, group in itertools.groupby(jobs, lambda job: (job.width, job.height, job.negative_text is None)):
            same = list(group)
            rows = self._rows
            yield from (same[start : start + rows] for start in range(0, len(same), rows))

    def _render_call(self, jobs: Sequence[ImageJob]) -> list[Pixels | RowError]:
        filled = [*jobs, *[jobs[-1]] * (self._rows - len(jobs))]
        devices = [self._device] if self._device.type == "cuda" else []
        # The per-image generators make the noise; some schedulers draw more from the global one (DPM-Solver SDE), which
        # is therefore seeded too and given back as it was.
        with torch.random.fork_rng(devices=devices), _deterministic_cudnn():
            torch.manual_seed(jobs[0].seed)
            output = self._pipe(**self._arguments(filled))
        # A pipeline clips to 0 .. 1 at its end: NaN survives that, and so does an Inf from anywhere before the last
        # layer, as the NaN that a normalisation makes of it.
        batch = torch.as_tensor(output.images)[: len(jobs)].float() * 2.0 - 1.0
        results: list[Pixels | RowError]
        try:
            results = list(to_pixels(batch))
        except SomeRowsError as error:
            results = error.results
        unsafe = getattr(output, "nsfw_content_detected", None) or [False] * len(filled)
        return [self._judged(*row) for row in zip(jobs, results, unsafe, strict=False)]

    def _judged(self, job: ImageJob, result: Pixels | RowError, unsafe: bool) -> Pixels | RowError:
        if isinstance(result, RowError):
            return result
        if unsafe:
            return RowError("unsafe", "the pipeline's safety checker withheld the image")  # it hands out a black one
        height, width = result.shape[:2]
        asked = (job.width or self._settings.width or width, job.height or self._settings.height or height)
        if asked != (width, height):
            return RowError("bad_size", f"the pipeline made {width}x{height} where {asked[0]}x{asked[1]} was asked for")
        return result

    def _arguments(self, jobs: Sequence[ImageJob]) -> dict[str, Any]:
        """The pipeline's keyword arguments for jobs of one size and one kind of guidance."""
        settings = self._settings
        chosen = {
            "num_inference_steps": settings.steps,
            "guidance_scale": settings.guidance,
            "width": jobs[0].width or settings.width,
            "height": jobs[0].height or settings.height,
        }
        arguments: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
        arguments["prompt"] = [job.text for job in jobs]
        arguments["generator"] = [image_generator(job.seed) for job in jobs]
        arguments["output_type"] = "pt"
        # Without one the argument stays away: SDXL, for one, takes None for zeros and "" for an empty prompt.
        if jobs[0].negative_text is not None:
            arguments["negative_prompt"] = [job.negative_text for job in jobs]
            if "true_cfg_scale" in self._parameters:
                # Flux ignores a negative prompt at its default of 1: a row that has one asks for more.
                default = self._parameters["true_cfg_scale"].default
                theirs = default if isinstance(default, (int, float)) and default > 1 else 4.0
                arguments["true_cfg_scale"] = theirs if settings.true_cfg_scale is None else settings.true_cfg_scale
        return arguments

    def _check_size(self, width: int | None, height: int | None) -> None:
        for name, side in (("width", width), ("height", height)):
            if side is None:
                continue
            if not 0 < side <= self._settings.max_side:
                raise RowError("bad_size", f"{name} is {side}: it must be 1 to {self._settings.max_side} pixels")
            if side % self._multiple:
                raise RowError(
                    "bad_size", f"{name} is {side}: this pipeline makes multiples of {self._multiple} pixels"
                )


@contextmanager
def _deterministic_cudnn() -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
