"""Renders with any pipeline directory of `diffusers` that makes images: Stable Diffusion, SDXL, SD3, Flux, ...

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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from actors.contracts import ImageJob, Pixels
from actors.device import is_out_of_memory
from actors.diffusers_lora import load_loras
from actors.diffusers_pictures import Given, given
from actors.diffusers_pipeline import fitting_scheduler, load_pipeline, size_multiple
from actors.diffusers_settings import DiffusersSettings
from actors.diffusers_speed import place
from actors.errors import RowError, UserError
from actors.images import SomeRowsError, to_pixels
from actors.seeds import image_generator

_log = logging.getLogger(__name__)

_OWN = frozenset(
    {"prompt", "negative_prompt", "generator", "output_type", "image", "mask_image", "control_image", "width", "height",
     "num_images_per_prompt", "return_dict", "latents", "true_cfg_scale"}
)  # fmt: skip
_Work = tuple[ImageJob, Given | None]
_Call = tuple[int | None, int | None, bool]


class DiffusersBackend:
    """One loaded pipeline on one device. Not thread-safe."""

    def __init__(
        self,
        model_dir: str | Path,
        device: torch.device,
        settings: DiffusersSettings,
        *,
        trusted: bool = False,
        parts: Mapping[str, Path] = MappingProxyType({}),
    ) -> None:
        """Loads the pipeline; its safety checker is there if the directory has one.

        Args:
            model_dir: a local directory in diffusers' layout, weights in safetensors. Nothing is fetched, no code of
                the directory is run, no pickle is read.
            device: where to render.
            settings: how to render.
            trusted: pickled weights are read and code of the directory is run all the same.
            parts: directories of what `DiffusersSettings.parts` names.

        Raises:
            UserError: diffusers is not installed, the directory is no such pipeline, or a setting does not fit it.
        """
        if settings.images_per_call < 1:
            raise UserError(f"images_per_call is {settings.images_per_call}: it must be at least 1")
        self._settings = settings
        self._pipe = load_pipeline(
            Path(model_dir), settings, device, trusted=trusted, controlnet=parts.get("generate_controlnet")
        )
        loras = [parts[f"generate_lora_{number:02}"] for number in range(len(settings.loras))]
        load_loras(self._pipe, loras, settings.lora_scales, fuse=settings.fuse_loras)
        self._parameters = inspect.signature(self._pipe.__call__).parameters
        if settings.scheduler is not None or settings.scheduler_options:
            own = self._pipe.scheduler
            self._pipe.scheduler = fitting_scheduler(own, settings.scheduler, settings.scheduler_options)
        self._options = settings.call_options()
        for name in self._options:
            if name not in self._parameters:
                raise UserError(f"{type(self._pipe).__name__} has no {name}: leave it out of the config")
            if name in settings.call and (name in _OWN or name in replace(settings, call={}).call_options()):
                raise UserError(f"generate.diffusers.call sets {name}, which has an option of its own or none")
        place(self._pipe, settings, device)
        self._device = device
        self._fits: dict[_Call, int] = {}
        self._multiple = size_multiple(self._pipe)
        try:
            self._check_size(settings.width, settings.height)
        except RowError as error:
            raise UserError(f"the image size in the config cannot be made: {error.detail}") from error

    def check(self, job: ImageJob) -> None:
        """Raises `RowError` for an empty text, a size, a picture or a negative prompt that this pipeline cannot do."""
        if not job.text.strip():
            raise RowError("empty_text", "there is no text to render")
        self._check_size(job.width, job.height)
        if self._settings.needs_pictures:
            self._check_size(*self._given(job).size)
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
        needs = self._settings.needs_pictures
        for call in self._calls([(job, self._given(job) if needs else None) for job in jobs]):
            try:
                results.extend(self._render_call(call))
            except Exception as error:
                rows = self._rows(call[0])
                if rows > 1 and is_out_of_memory(error):
                    # The caller halves the micro-batch and comes again; without this, filling up would undo that.
                    self._fits[_call(call[0])] = rows // 2
                    _log.warning(
                        "out of memory: from now on %d images of this size share a call of the pipeline, where "
                        "generate.diffusers.images_per_call says %d", rows // 2, self._settings.images_per_call,
                    )  # fmt: skip
                raise
        if any(isinstance(result, RowError) for result in results):
            raise SomeRowsError(results)
        return [result for result in results if not isinstance(result, RowError)]

    def _given(self, job: ImageJob) -> Given:
        own = self._settings
        wanted = (job.width or own.width, job.height or own.height)
        return given(job, *wanted, self._multiple, masked=own.task == "inpainting")

    def _calls(self, work: Sequence[_Work]) -> Iterator[list[_Work]]:
        """Slices of ``work``, in order, whose rows can share one call."""
        for _, group in itertools.groupby(work, _call):
            same = list(group)
            rows = self._rows(same[0])
            yield from (same[start : start + rows] for start in range(0, len(same), rows))

    def _rows(self, work: _Work) -> int:
        """Images that share a call with this one: as the settings say, fewer where memory was short for its size."""
        return self._fits.get(_call(work), self._settings.images_per_call)

    def _render_call(self, work: Sequence[_Work]) -> list[Pixels | RowError]:
        filled = [*work, *[work[-1]] * (self._rows(work[0]) - len(work))]
        devices = range(torch.cuda.device_count()) if self._device.type == "cuda" else []
        # The per-image generators make the noise; some schedulers draw more from the global one (DPM-Solver SDE), which
        # is therefore seeded too and given back as it was.
        with torch.random.fork_rng(devices=devices), _deterministic_cudnn():
            torch.manual_seed(work[0][0].seed)
            output = self._pipe(**self._arguments(filled))
        # A pipeline clips to 0 .. 1 at its end: NaN survives that, and so does an Inf from anywhere before the last
        # layer, as the NaN that a normalisation makes of it.
        batch = torch.as_tensor(output.images)[: len(work)].float() * 2.0 - 1.0
        results: list[Pixels | RowError]
        try:
            results = list(to_pixels(batch))
        except SomeRowsError as error:
            results = error.results
        unsafe = getattr(output, "nsfw_content_detected", None) or [False] * len(filled)
        return [self._judged(*row) for row in zip(work, results, unsafe, strict=False)]

    def _judged(self, work: _Work, result: Pixels | RowError, unsafe: bool) -> Pixels | RowError:
        if isinstance(result, RowError):
            return result
        if unsafe:
            return RowError("unsafe", "the pipeline's safety checker withheld the image")  # it hands out a black one
        job, picture = work
        height, width = result.shape[:2]
        asked = (job.width or self._settings.width or width, job.height or self._settings.height or height)
        if picture is not None:
            asked = picture.size
        if asked != (width, height):
            return RowError("bad_size", f"the pipeline made {width}x{height} where {asked[0]}x{asked[1]} was asked for")
        return result if picture is None else picture.mended(result)

    def _arguments(self, work: Sequence[_Work]) -> dict[str, Any]:
        """The pipeline's keyword arguments for jobs of one size and one kind of guidance."""
        settings, jobs = self._settings, [job for job, _ in work]
        size: dict[str, Any] = {
            "width": jobs[0].width or settings.width,
            "height": jobs[0].height or settings.height,
        }
        pictures = [picture for _, picture in work if picture is not None]
        if pictures:
            # Of the picture, and said where it can be: some pipelines would rather make their model's own size.
            size = {
                name: side
                for name, side in zip(("width", "height"), pictures[0].size, strict=True)
                if name in self._parameters
            }
        arguments = self._options | {name: value for name, value in size.items() if value is not None}
        if pictures:
            name = "control_image" if "control_image" in self._parameters else "image"
            arguments[name] = _alone([picture.picture for picture in pictures])
            if settings.task == "inpainting":
                arguments["mask_image"] = _alone([picture.mask for picture in pictures])
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


def _call(work: _Work) -> _Call:
    """What the jobs of one call must have in common: the size, and whether there is something to steer away from."""
    job, picture = work
    return *(picture.size if picture else (job.width, job.height)), job.negative_text is not None


def _alone(pictures: list[Any]) -> Any:
    """One picture by itself: pipelines that edit take a list for several pictures of one image."""
    return pictures[0] if len(pictures) == 1 else pictures


@contextmanager
def _deterministic_cudnn() -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield
