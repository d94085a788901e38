"""Tiny models of the real classes, built in a second and saved the way real ones are."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import CLIPTextConfig, CLIPTextModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from actors.gan_model import GanModel
from actors.networks import GanConfig, GanGenerator, Task

_CORPUS = ["a red heart on the beach", "a green tree", "一只猫在沙滩上玩耍", "bold red x", "a photo of a blue cat"]


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of a few hundred tokens that ends each text with ``</s>``."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<pad>", "<s>", "<mask>", "</s>"]  # </s> is not 2: see pipeline.caption_tokenizer
    core.train_from_iterator(
        _CORPUS,
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=48
    )


def save_gan(directory: Path, task: Task = "words") -> Path:
    """A text-conditional GAN for 32x32 pictures with random weights."""
    torch.manual_seed(0)
    words = tokenizer()
    config = GanConfig(
        text_dim=16, noise_dim=8, latent_channels=4, stem_width=24, stem_blocks=1, widths=(8, 8), task=task
    )
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=48, bos_token_id=1, eos_token_id=3, pad_token_id=0,
        )
    )  # fmt: skip
    GanModel(GanGenerator(config), encoder, words).save(directory, training={"data": "none: random weights"})
    return directory


def save_llm(directory: Path) -> Path:
    """A Llama of one layer with random weights."""
    torch.manual_seed(0)
    words = tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=2048, bos_token_id=1, eos_token_id=3, pad_token_id=0,
        )
    )  # fmt: skip
    model.save_pretrained(directory)
    words.save_pretrained(directory)
    return directory


def save_alexnet(path: Path) -> Path:
    """AlexNet's convolutions with random weights, under torchvision's names."""
    generator = torch.Generator().manual_seed(0)
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    tensors = {}
    for number, shape in shapes.items():
        fan_in = shape[1] * shape[2] * shape[3]
        tensors[f"features.{number}.weight"] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        tensors[f"features.{number}.bias"] = torch.zeros(shape[0])
    save_file(tensors, path)
    return path
