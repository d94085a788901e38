"""Tiny diffusers pipelines of the real classes with random weights, saved the way real ones are."""

from __future__ import annotations

import json
from pathlib import Path

import torch


def clip_tokenizer(folder: Path):
    """A CLIP tokenizer without merges: one token a byte."""
    from transformers import CLIPTokenizer

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [chr(byte) for byte in printable] + [chr(256 + number) for number in range(256 - len(printable))]
    pieces = [*characters, *(character + "</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def clip_text_model(kind):
    from transformers import CLIPTextConfig

    config = CLIPTextConfig(
        vocab_size=514,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=32,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    return kind(config).eval()


def t5():
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz"
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)]
    tokenizer = T5TokenizerFast(vocab=special + [(letter, -2.0) for letter in letters], extra_ids=0)
    size = len(tokenizer) + 4
    config = T5Config(vocab_size=size, d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=2, eos_token_id=1)
    return tokenizer, T5EncoderModel(config).eval()


def vae(channels: int):
    from diffusers import AutoencoderKL

    quantised = channels == 4
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        use_quant_conv=quantised,
        use_post_quant_conv=quantised,
        shift_factor=None if quantised else 0.06,
        scaling_factor=0.18 if quantised else 1.5,
    ).eval()


def unet(channels: int = 4):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=16,
        in_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()


def stable_diffusion(folder: Path, channels: int = 4) -> Path:
    """``channels`` is 9 for a model that fills holes."""
    from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline, StableDiffusionPipeline
    from transformers import CLIPTextModel

    kind = StableDiffusionPipeline if channels == 4 else StableDiffusionInpaintPipeline
    kind(
        vae=vae(4),
        text_encoder=clip_text_model(CLIPTextModel),
        tokenizer=clip_tokenizer(folder / "vocabulary"),
        unet=unet(channels),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def stable_diffusion_3(folder: Path) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    tokenizer_3, text_encoder_3 = t5()
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=8,
        out_channels=8,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=64,
    ).eval()
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(8),
        text_encoder=clip_text_model(CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(folder / "vocabulary"),
        text_encoder_2=clip_text_model(CLIPTextModelWithProjection),
        tokenizer_2=clip_tokenizer(folder / "vocabulary-2"),
        text_encoder_3=text_encoder_3,
        tokenizer_3=tokenizer_3,
    ).save_pretrained(folder)
    return folder


def flux(folder: Path) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    tokenizer_2, text_encoder_2 = t5()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    ).eval()
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(1),
        text_encoder=clip_text_model(CLIPTextModel),
        tokenizer=clip_tokenizer(folder / "vocabulary"),
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=transformer,
    ).save_pretrained(folder)
    return folder


BUILDERS = {"sd": stable_diffusion, "sd3": stable_diffusion_3, "flux": flux}


def controlnet(folder: Path) -> Path:
    """For `stable_diffusion`; its last layers are not zero, as a trained one's are not."""
    from diffusers import ControlNetModel

    model = ControlNetModel.from_unet(unet(), conditioning_embedding_out_channels=(16, 32))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


def lora(folder: Path, model: Path, seed: int = 0) -> Path:
    """A LoRA of the denoiser of a pipeline directory, with weights that show."""
    from diffusers import DiffusionPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    pipe = DiffusionPipeline.from_pretrained(model)
    part = "unet" if hasattr(pipe, "unet") else "transformer"
    denoiser = getattr(pipe, part)
    denoiser.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    torch.manual_seed(seed)
    weights = {key: torch.randn_like(weight) for key, weight in get_peft_model_state_dict(denoiser).items()}
    pipe.save_lora_weights(folder, **{f"{part}_lora_layers": weights})
    return folder
