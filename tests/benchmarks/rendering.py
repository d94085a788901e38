"""The GAN backend beside the raw forward pass, encoders beside the GAN, and `diffusers` beside a bare call."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from actors.backend_gan import GanBackend
from actors.contracts import ImageJob
from actors.device import use_resources
from actors.gan_model import load_gan
from actors.images import Encoding, ImageEncoder
from actors.model_uri import resolve_model
from actors.seeds import image_generator
from pipeline.config_stages import Generate
from tests.benchmarks.harness import Bench, Comparison, Contest, rate

_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_ENCODINGS: tuple[Encoding, ...] = ("png", "webp", "jpeg")
_PIPELINE_STEPS = 10


def gan(bench: Bench) -> Contest:
    """Images/s of the shipped GAN: backend at the config's batch, raw models at the batch that suits them best."""
    device = use_resources(2, 0)
    model_dir = resolve_model("package:promptmill").path
    backend, model = GanBackend(model_dir, device), load_gan(model_dir)
    rows = 8 if bench.quick else Generate().batch_rows
    jobs = [ImageJob(str(n), text, None, n, None, None) for n, text in enumerate(bench.prompts[:rows])]
    model.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def forward(batch: int) -> float:
        most = batch if bench.quick else 64
        for start in range(0, most, batch):
            part = [bench.prompts[(start + n) % len(bench.prompts)] for n in range(batch)]
            noise = torch.randn(batch, model.generator.config.noise_dim, generator=image_generator(0))
            model.generator(noise, model.embed(part))
        return most

    def raw(batch: int) -> dict[str, float]:
        return rate("images", lambda: forward(batch))

    def ours() -> float:
        return sum(len(backend.render(jobs)) for _ in range(1 if bench.quick else 2))

    raw(8)
    best = 8 if bench.quick else max(_BATCHES, key=lambda batch: max(raw(batch)["images/s"] for _ in range(2)))
    other = f"raw forward, batches of {best}"
    return Contest(
        {"gan backend": lambda: rate("images", ours), other: lambda: raw(best)},
        [Comparison("gan backend", other, "images/s", at_least=0.9)],
        turns=11,
    )


def encoding(bench: Bench) -> Contest:
    """Images/s of one thread that encodes, marks and hashes, and of the shipped GAN that has all cores."""
    device = use_resources(2, 0)
    backend = GanBackend(resolve_model("package:promptmill").path, device)
    rows = 8 if bench.quick else 32
    jobs = [ImageJob(str(n), text, None, n, None, None) for n, text in enumerate(bench.prompts[:rows])]
    pictures = backend.render(jobs)

    def encoded(kind: Encoding) -> dict[str, float]:
        encoder = ImageEncoder(kind, 90)

        def work() -> float:
            for number, picture in enumerate(pictures):
                hashlib.sha256(encoder.encode(picture, str(number)).data).digest()
            return rows

        return rate("images", work)

    sides = {f"{kind}, one thread": (lambda kind=kind: encoded(kind)) for kind in _ENCODINGS}
    gan_side = "gan backend"
    return Contest(
        {**sides, gan_side: lambda: rate("images", lambda: len(backend.render(jobs)))},
        [Comparison(side, gan_side, "images/s", at_least=1) for side in sides],
        turns=7,
    )


def diffusers(bench: Bench) -> Contest:
    """Images/s of the backend `diffusers` and of the same pipeline called bare, one image a call as by default."""
    from diffusers import StableDiffusionPipeline

    from actors.backend_diffusers import DiffusersBackend
    from actors.diffusers_settings import DiffusersSettings
    from tests.pipelines import stable_diffusion

    device = use_resources(2, 0)
    steps, count, side = (2, 1, 32) if bench.quick else (_PIPELINE_STEPS, 4, 64)
    folder = stable_diffusion(bench.scratch / "pipeline")
    backend = DiffusersBackend(folder, device, DiffusersSettings(steps=steps))
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    jobs = [ImageJob(str(n), text, None, n, side, side) for n, text in enumerate(bench.prompts[:count])]

    def bare() -> float:
        for job in jobs:
            made = pipe(
                job.text, num_inference_steps=steps, width=side, height=side, generator=image_generator(job.seed),
                output_type="np",
            )  # fmt: skip
            (np.asarray(made.images) * 255).round().astype(np.uint8)
        return count

    return Contest(
        {
            "diffusers backend": lambda: rate("images", lambda: len(backend.render(jobs))),
            "bare pipeline": lambda: rate("images", bare),
        },
        [Comparison("diffusers backend", "bare pipeline", "images/s", at_least=0.98)],
        turns=15,
    )
