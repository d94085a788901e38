"""The typed configuration of an evaluation."""

from __future__ import annotations

from typing import Any

from pipeline.config_base import Section, image_uris, max_image_pixels, option, place, server_side_encryption
from pipeline.config_running import Actors, Cluster
from pipeline.server_side_encryption import Sse


class Images(Section):
    """A table of images: a promptmill output, captioned Parquet, an image folder, or WebDataset tars."""

    uri: str | None = place(None, "where it is, any fsspec URI; null = none")
    image: str = option("image", "column of the images")
    text: str | None = option(
        None, "column of the words that an image is to match; null = prompt, caption*, text or description, if any"
    )
    split: str | None = option(None, "rows whose column `split` says so; null = all")
    options: dict[str, Any] = place({}, "fsspec options; credentials belong in the environment")
    sse: Sse | None = server_side_encryption()
    image_uris: list[str] = image_uris()
    max_image_pixels: int = max_image_pixels()


class Features(Section):
    """What turns images and words into vectors."""

    model: str = place(
        "package:promptmill/encoder",
        "URI of a `transformers` model of the CLIP family (judges words too) or vision model, or of FID's Inception as "
        "inception-2015-12-05.pt",
    )
    batch_rows: int = place(64, "images that one call of the model takes", ge=1, le=4096)
    actors: Actors = place(Actors(), "the pool that extracts")


class Measures(Section):
    """How metrics are taken."""

    subset: int = option(5000, "rows of the seeded subset for KID, precision, recall, R-precision, Vendi ...", ge=10)
    neighbours: int = option(5, "k of precision, recall, density and coverage", ge=1)
    choice: int = option(100, "texts that R-precision chooses from", ge=2)
    duplicate: float = option(0.98, "cosine of two images' features from which on they are near-duplicates", gt=0, le=1)
    paired: bool = option(False, "PSNR, SSIM, MS-SSIM of images and references with the same id (restoration)")
    lpips: str | None = option(
        None, "LPIPS of pairs: URI of AlexNet's ImageNet weights as safetensors, torchvision's names; null = none"
    )
    within: int = option(4, "images of one prompt that MS-SSIM compares with one another; 0 = none", ge=0)


class Results(Section):
    """Where results go."""

    uri: str | None = place(None, "directory or URI; null = GENERATED/evaluation where that is a promptmill output")
    options: dict[str, Any] = place({}, "fsspec options")
    sse: Sse | None = server_side_encryption()
    tensorboard: str | None = place(None, "local directory for TensorBoard scalars; null = none")


class EvaluateConfig(Section):
    """Generated images in, metrics with intervals out; beside a reference where there is one."""

    seed: int = option(0, "of subsets, draws and intervals", ge=0, lt=2**63)
    generated: Images = option(Images(), "what is judged")
    reference: Images = option(Images(), "real images, or the truth of paired metrics")
    features: Features = option(Features(), "the feature extractor")
    measures: Measures = option(Measures(), "how metrics are taken")
    output: Results = place(Results(), "where results go")
    allow_unsafe_models: bool = place(
        False, "load weights as pickles and TorchScript: they may run code; also --allow-unsafe-models"
    )
    cluster: Cluster = place(Cluster(), "the Ray cluster")
