"""A trained text-conditional GAN as a directory: how it is saved, loaded, and told apart from something else.

config.json                 format version, the networks' sizes, how it was trained
generator.safetensors       G (the moving average), float16 or float32
text_encoder/               a `transformers` CLIPTextModel: config.json, model.safetensors
tokenizer.json ...          a `transformers` fast tokenizer
README.md                   model card
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from actors.errors import UserError
from actors.gan_directory import one_model
from actors.networks import GanConfig, GanGenerator
from actors.offline import offline
from actors.whole_weights import load_whole

FORMAT = "promptmill-gan"
FORMAT_VERSION = 1
_MOST_DOUBLINGS, _MOST_BLOCKS, _WIDEST = 8, 64, 1 << 16


@dataclass
class GanModel:
    """Everything that turns words and noise into pictures."""

    generator: GanGenerator
    text_encoder: CLIPTextModel
    tokenizer: PreTrainedTokenizerFast

    @property
    def max_tokens(self) -> int:
        """Tokens that the text encoder reads at most."""
        most: int = self.text_encoder.config.max_position_embeddings
        return most

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """What the text encoder reads of each text: words beyond ``max_tokens`` are cut off."""
        # A prompt is a stranger's text: "</s>" in it is four characters, not the end of the words.
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens, split_special_tokens=True)
        rows: list[list[int]] = encoded["input_ids"]
        return rows

    def embed_tokens(self, rows: Sequence[Sequence[int]], length: int) -> Tensor:
        """Condition vectors (n, text_dim) float32 of the tokens of some texts, each padded to ``length``."""
        padding = self.tokenizer.pad_token_id
        ids = torch.tensor([[*row, *[padding] * (length - len(row))] for row in rows], device=self.text_encoder.device)
        # No mask: the tower is causal and is read at the end token, so what stands after it changes nothing.
        pooled: Tensor = self.text_encoder(input_ids=ids).pooler_output
        return pooled

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Condition vectors of some texts, (n, text_dim) float32."""
        rows = self.tokens(texts)
        return self.embed_tokens(rows, max(len(row) for row in rows))

    def save(self, directory: Path, training: dict[str, Any], dtype: torch.dtype = torch.float16) -> None:
        """Writes the directory; ``training`` goes into config.json as it is. float16 halves the file."""
        directory.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu().contiguous().to(dtype) for k, v in self.generator.state_dict().items()}
        save_file(state, directory / "generator.safetensors")
        encoder = CLIPTextModel(self.text_encoder.config)
        encoder.load_state_dict(self.text_encoder.state_dict())
        encoder.to(dtype).save_pretrained(directory / "text_encoder")
        self.tokenizer.save_pretrained(directory)
        config = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "networks": asdict(self.generator.config),
            "training": training,
        }
        (directory / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n")


def load_gan(directory: Path) -> GanModel:
    """Loads a model directory in float32 on the CPU.

    A directory that holds several models' directories is taken for its one model, so that a package can be named.

    Raises:
        UserError: no model of this project there, a missing or unreadable file, another format version.
    """
    directory = one_model(directory)
    transformers_logging.disable_progress_bar()  # a bar a file is noise in a job's log
    try:
        config = json.loads((directory / "config.json").read_text())
        version, sizes, told = config["version"], config["networks"], config.get("format")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"'{directory / 'config.json'}' cannot be read: {type(error).__name__}") from error
    if told != FORMAT:
        raise UserError(f"'{directory}' is no {FORMAT} model; for a diffusers pipeline set generate.backend=diffusers")
    if version != FORMAT_VERSION:
        raise UserError(f"'{directory}' has format version {version}, this promptmill reads {FORMAT_VERSION}")
    try:
        generator = _generator(sizes, load_file(directory / "generator.safetensors"))
        with offline():
            text_encoder = load_whole(
                CLIPTextModel, directory / "text_encoder", local_files_only=True, use_safetensors=True,
                trust_remote_code=False, dtype=torch.float32,
            )  # fmt: skip
            tokenizer = PreTrainedTokenizerFast.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"the GAN at '{directory}' cannot be loaded: {reason}") from error
    return GanModel(generator.eval(), text_encoder.eval(), tokenizer)


def _generator(sizes: dict[str, Any], state: dict[str, Tensor]) -> GanGenerator:
    config = GanConfig(**{**sizes, "widths": tuple(sizes["widths"])})
    counts = (config.text_dim, config.noise_dim, config.latent_channels, config.stem_width, *config.widths)
    if len(config.widths) > _MOST_DOUBLINGS or config.stem_blocks > _MOST_BLOCKS or max(counts) > _WIDEST:
        raise ValueError("config.json asks for networks larger than any that this project trains")
    # Without memory of its own until the weights are there: what the config says costs nothing that no file backs.
    with torch.device("meta"):
        generator = GanGenerator(config)
    generator.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return generator
