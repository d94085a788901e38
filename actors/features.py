"""Feature extractors: pictures to vectors, and words and classes where the model has them. Chosen by model URI.

CLIP family    any `transformers` model with a text and a vision tower (CLIP, SigLIP, Chinese-CLIP ...): pictures, words
vision model   any other `transformers` vision model (ViT, DINOv2, ResNet ...): pictures; classes too where it is a
               classifier
TorchScript    ``inception-2015-12-05.pt``, the Inception-v3 of FID as StyleGAN and clean-fid use it: pictures, classes.
               Such a file is code: it needs ``allow_unsafe_models``
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from actors.errors import PromptmillError, UserError
from actors.model_uri import LocalModel
from actors.offline import offline, unloadable
from actors.whole_weights import load_whole

RESAMPLER = "centre square, Lanczos (Pillow, anti-aliased)"
"""How pictures are brought to a model's size; see `actors.decode.square` (Parmar et al., clean-fid, 2022, on why)."""
EMBEDDED = "promptmill-clip"
"""Name of the embedded encoder's features."""
_INCEPTION_SIDE = 299
_LARGEST_SIDE = 4096


@dataclass(frozen=True)
class Seen:
    """What an extractor made of pictures: features (n, d), and class probabilities (n, classes) or None."""

    features: Tensor
    classes: Tensor | None = None


class FeatureExtractor(Protocol):
    """A model that is loaded; ``side`` is the pictures' side in pixels."""

    side: int

    def see(self, pixels: Tensor) -> Seen:
        """Pixels (n, 3, side, side) uint8 -> features, float32 on the CPU."""
        ...

    def read(self, texts: Sequence[str]) -> Tensor | None:
        """Texts -> (n, d) in the space of the pictures, of length one; None where the model reads no words."""
        ...


class ClipFeatures:
    """The CLIP family: pictures and words in one space, of length one."""

    def __init__(self, path: Path, device: torch.device, *, trusted: bool) -> None:
        from transformers import AutoModel, AutoTokenizer

        self._model = load_whole(AutoModel, path, **_how(trusted)).to(device).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=trusted)
        config = self._model.config
        self._normal = _Normal(path, config.vision_config, device)
        self.side = self._normal.side
        self._longest = int(config.text_config.max_position_embeddings)
        # SigLIP was trained on texts of full length only; the others look at what the mask leaves.
        self._padding = "max_length" if "siglip" in config.model_type else True

    @torch.inference_mode()
    def see(self, pixels: Tensor) -> Seen:
        """See the protocol."""
        return Seen(_unit(self._model.get_image_features(pixel_values=self._normal(pixels))))

    @torch.inference_mode()
    def read(self, texts: Sequence[str]) -> Tensor | None:
        """See the protocol; words beyond the model's length are cut off."""
        encoded = self._tokenizer(
            list(texts), padding=self._padding, truncation=True, max_length=self._longest, return_tensors="pt",
            split_special_tokens=True,
        ).to(self._model.device)  # fmt: skip
        return _unit(self._model.get_text_features(**encoded))


class VisionFeatures:
    """A vision model: its pooled output, and its classes where it is a classifier."""

    def __init__(self, path: Path, device: torch.device, *, classifier: bool, trusted: bool) -> None:
        from transformers import AutoModel, AutoModelForImageClassification

        kind = AutoModelForImageClassification if classifier else AutoModel
        self._model = load_whole(kind, path, **_how(trusted)).to(device).eval()
        self._classifier = classifier
        self._normal = _Normal(path, self._model.config, device)
        self.side = self._normal.side

    @torch.inference_mode()
    def see(self, pixels: Tensor) -> Seen:
        """See the protocol."""
        normal = self._normal(pixels)
        body = self._model.base_model if self._classifier else self._model
        features = _pooled(body(pixel_values=normal)).float().cpu()
        if not self._classifier:
            return Seen(features)
        return Seen(features, self._model(pixel_values=normal).logits.float().softmax(dim=1).cpu())

    def read(self, texts: Sequence[str]) -> Tensor | None:
        """See the protocol."""
        return None


class InceptionFeatures:
    """FID's Inception-v3 as TorchScript: 2,048 features and 1,008 classes."""

    side = _INCEPTION_SIDE

    def __init__(self, path: Path, device: torch.device) -> None:
        self._model, self._device = torch.jit.load(str(path), map_location=device).eval(), device

    @torch.inference_mode()
    def see(self, pixels: Tensor) -> Seen:
        """See the protocol."""
        pixels = pixels.to(self._device)
        features = self._model(pixels, return_features=True)
        return Seen(features.float().cpu(), self._model(pixels, no_output_bias=True).float().cpu())

    def read(self, texts: Sequence[str]) -> Tensor | None:
        """See the protocol."""
        return None


def load_features(model: LocalModel, device: torch.device) -> FeatureExtractor:
    """The extractor that a local model is; see the module's table.

    Raises:
        UserError: no such model there, one that does not load, or one that needs ``allow_unsafe_models``.
    """
    path = model.path
    try:
        if path.is_file():
            if not model.trusted or path.suffix != ".pt":
                raise ValueError("a file that is not inception-2015-12-05.pt")
            return InceptionFeatures(path, device)
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        with offline():
            if "text_config" in config and "vision_config" in config:
                return ClipFeatures(path, device, trusted=model.trusted)
            named = config.get("architectures") or [""]
            classifier = named[0].endswith("ForImageClassification")
            return VisionFeatures(path, device, classifier=classifier, trusted=model.trusted)
    except (torch.OutOfMemoryError, PromptmillError):
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UserError(unloadable(error, f"the model '{path}'")) from error
        raise UserError(
            f"'{path}' is no feature extractor ({type(error).__name__}): give a `transformers` model of the CLIP "
            "family or a vision model, or inception-2015-12-05.pt"
        ) from error


def features_name(uri: str) -> str:
    """What the features of a model URI are called in results: never empty, never a URI with credentials."""
    if uri.rstrip("/") == "package:promptmill/encoder":
        return EMBEDDED
    name = uri.rstrip("/").rpartition("/")[2].partition("@")[0]
    return "inception-v3" if name.startswith("inception") else name or "features"


def _how(trusted: bool) -> dict[str, Any]:
    safetensors = None if trusted else True
    return {
        "local_files_only": True, "use_safetensors": safetensors, "trust_remote_code": trusted, "dtype": torch.float32,
    }  # fmt: skip


class _Normal:
    """Pixels as a model wants them: mean, deviation and side as its files say."""

    def __init__(self, path: Path, config: Any, device: torch.device) -> None:
        told = _processor(path)
        size = {**told.get("size", {}), **(told.get("crop_size") or {})}
        side: int = size.get("height") or size.get("shortest_edge") or getattr(config, "image_size", None) or 224
        self.side = int(side)
        if not 0 < self.side <= _LARGEST_SIDE:
            raise ValueError(f"pictures of {self.side} pixels a side")
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(told.get("image_mean", [0.5] * 3), device=device).view(shape)
        self._std = torch.tensor(told.get("image_std", [0.5] * 3), device=device).view(shape)

    def __call__(self, pixels: Tensor) -> Tensor:
        normal: Tensor = (pixels.to(self._mean.device).float() / 255 - self._mean) / self._std
        return normal


def _processor(path: Path) -> dict[str, Any]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (path / name).is_file():
            told: dict[str, Any] = json.loads((path / name).read_text(encoding="utf-8"))
            found: dict[str, Any] = told.get("image_processor", told)
            return found
    return {}


def _pooled(output: Any) -> Tensor:
    pooled: Tensor | None = getattr(output, "pooler_output", None)
    if pooled is not None:
        return pooled.flatten(1)  # convolutional models pool to (n, d, 1, 1)
    last: Tensor = output.last_hidden_state
    return last.mean(dim=(2, 3)) if last.ndim == 4 else last.mean(dim=1)


def _unit(output: Any) -> Tensor:
    vectors = output if isinstance(output, Tensor) else output.pooler_output
    return nn.functional.normalize(vectors.float(), dim=1).cpu()
