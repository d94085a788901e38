"""The image-text encoder: a `transformers` CLIPModel with a tokenizer of its own; how it is built, saved and loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from actors.errors import UserError
from actors.offline import offline
from actors.whole_weights import load_whole

_HEAD = 48
"""Width of an attention head."""
_LENGTH_GROUPS = 4


@dataclass(frozen=True)
class EncoderSizes:
    """Sizes of the two towers (Vision Transformer and Transformer, pre-norm, as in CLIP)."""

    resolution: int = 64
    patch: int = 8
    image_width: int = 144
    image_layers: int = 4
    text_width: int = 192
    text_layers: int = 3
    embedding: int = 192
    max_tokens: int = 48


@dataclass
class ImageText:
    """Pictures and words in one space."""

    model: CLIPModel
    tokenizer: PreTrainedTokenizerBase

    def embed_words(self, texts: Sequence[str]) -> Tensor:
        """(n, embedding) float32, of length one; words beyond the encoder's tokens are cut off."""
        encoded = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            split_special_tokens=True,
            return_tensors="pt",
        ).to(self.model.device)
        return words_of(self.model, encoded["input_ids"], encoded["attention_mask"])

    def embed_images(self, images: Tensor) -> Tensor:
        """Images (n, 3, r, r) in [-1, 1] at the encoder's resolution -> (n, embedding) float32, of length one."""
        return pictures_of(self.model, images)

    def save(self, directory: Path, dtype: torch.dtype = torch.float16) -> None:
        """Writes what ``CLIPModel.from_pretrained`` and ``CLIPProcessor.from_pretrained`` read."""
        directory.mkdir(parents=True, exist_ok=True)
        copy = CLIPModel(self.model.config)
        copy.load_state_dict(self.model.state_dict())
        copy.to(dtype).save_pretrained(directory)
        side = self.model.config.vision_config.image_size
        size = {"height": side, "width": side}
        # Mean and deviation 0.5: pixels in [-1, 1], as the GAN makes them.
        processor = CLIPImageProcessorPil(
            size=size, do_center_crop=False, crop_size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3
        )
        CLIPProcessor(image_processor=processor, tokenizer=self.tokenizer).save_pretrained(directory)


def words_of(model: CLIPModel, tokens: Tensor, mask: Tensor) -> Tensor:
    """Tokens (n, t) and their mask -> (n, embedding), of length one."""
    return torch.nn.functional.normalize(model.text_projection(pooled_words(model.text_model, tokens, mask)), dim=1)


def pooled_words(tower: nn.Module, tokens: Tensor, mask: Tensor) -> Tensor:
    """Tokens (n, t) and their mask through a text tower -> (n, width).

    Texts of like length go together, without the padding that the longest of all would ask for: most captions are a few
    words, some are a sentence, and a tower spends as much on padding as on words. The tower is causal, so what is cut
    off at the end changes nothing.
    """
    ends = tokens.shape[1] - mask.flip(1).argmax(dim=1)
    order = ends.argsort(stable=True)
    pooled = [
        tower(input_ids=tokens[part, :longest], attention_mask=mask[part, :longest]).pooler_output
        for part in order.tensor_split(min(_LENGTH_GROUPS, len(order)))
        for longest in [int(ends[part[-1]])]
    ]
    return torch.cat(pooled)[order.argsort()]


def pictures_of(model: CLIPModel, images: Tensor) -> Tensor:
    """Images (n, 3, r, r) in [-1, 1] -> (n, embedding), of length one."""
    pooled = model.vision_model(pixel_values=images).pooler_output
    return torch.nn.functional.normalize(model.visual_projection(pooled), dim=1)


def resample(images: Tensor, side: int) -> Tensor:
    """Images (n, 3, r, r) at another side in pixels; anti-aliased, as smaller pictures must be (clean-fid)."""
    if images.shape[-1] == side:
        return images
    return nn.functional.interpolate(images, (side, side), mode="bilinear", antialias=True)


def build_image_text(tokenizer: PreTrainedTokenizerFast, sizes: EncoderSizes) -> ImageText:
    """A new encoder with weights drawn from torch's global generator.

    Raises:
        UserError: the resolution is no multiple of the patch.
    """
    if sizes.resolution % sizes.patch:
        raise UserError(f"networks.resolution={sizes.resolution} is no multiple of networks.patch={sizes.patch}")
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": sizes.text_width,
        "intermediate_size": sizes.text_width * 8 // 3,
        "num_hidden_layers": sizes.text_layers,
        "num_attention_heads": max(1, sizes.text_width // _HEAD),
        "max_position_embeddings": sizes.max_tokens,
        "hidden_act": "gelu",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": sizes.image_width,
        "intermediate_size": sizes.image_width * 3,
        "num_hidden_layers": sizes.image_layers,
        "num_attention_heads": max(1, sizes.image_width // _HEAD),
        "image_size": sizes.resolution,
        "patch_size": sizes.patch,
        "hidden_act": "gelu",
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=sizes.embedding)
    return ImageText(CLIPModel(config), tokenizer)


def load_image_text(directory: Path, *, trusted: bool = False) -> ImageText:
    """Loads an encoder in float32 on the CPU.

    Args:
        directory: of a `transformers` model of the CLIP family.
        trusted: its weights may come as a pickle.

    Raises:
        UserError: no CLIP model there, or one that is damaged.
    """
    try:
        with offline():
            model = load_whole(
                CLIPModel, directory, local_files_only=True, use_safetensors=None if trusted else True,
                trust_remote_code=False, dtype=torch.float32,
            ).eval()  # fmt: skip
            tokenizer = PreTrainedTokenizerFast.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"'{directory}' holds no image-text encoder (CLIPModel): {type(error).__name__}") from error
    return ImageText(model, tokenizer)
