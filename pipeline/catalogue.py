"""The models and GPUs that are known by figures: what `catalogue.yaml` beside this file says, checked as it is read."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Gpu(_Entry):
    """A GPU: memory in GiB, dense TFLOP/s in 16 bits, memory bandwidth in GB/s."""

    gib: float
    tflops: float
    bandwidth: float
    bfloat16: bool = True

    @property
    def dtype(self) -> Literal["bfloat16", "float16"]:
        """The number format of 16 bits that it computes natively."""
        return "bfloat16" if self.bfloat16 else "float16"


class LanguageModel(_Entry):
    """A language model; parameters in billions, of which ``active`` ones compute a token."""

    name: str
    licence: str
    parameters: float
    active: float | None = None
    layers: int
    heads: int
    head: int

    @property
    def size(self) -> float:
        """All parameters, in billions."""
        return self.parameters


class Parts(_Entry):
    """Parameters of an image model, in billions."""

    denoiser: float
    text: float
    decoder: float


class ImageModel(_Entry):
    """An image model: ``steps`` times ``passes`` forward passes of ``tflop`` make an image of ``side`` pixels."""

    name: str
    licence: str
    parameters: Parts
    side: int
    tflop: float
    steps: int
    passes: int = 1
    settings: dict[str, Any]

    @property
    def size(self) -> float:
        """All parameters, in billions."""
        return self.parameters.denoiser + self.parameters.text + self.parameters.decoder


class Catalogue(_Entry):
    """All of it; models from the smallest on."""

    gpus: dict[str, Gpu]
    language: list[LanguageModel]
    image: list[ImageModel]


@functools.cache
def catalogue() -> Catalogue:
    """Reads the file."""
    told = Catalogue.model_validate(yaml.safe_load(resources.files("pipeline").joinpath("catalogue.yaml").read_text()))
    return told.model_copy(
        update={name: sorted(getattr(told, name), key=lambda model: model.size) for name in ("language", "image")}
    )


def gpu_named(name: str) -> tuple[str, Gpu] | None:
    """A GPU by its name as Ray has it or people write it (A100 alone is the one with less memory); None: unknown."""
    wanted = name.upper().removeprefix("NVIDIA-").removeprefix("TESLA-").replace("GB", "G")
    wanted = "A100-40G" if wanted == "A100" else wanted
    return next(((known, gpu) for known, gpu in catalogue().gpus.items() if known.upper() == wanted), None)
