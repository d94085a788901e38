"""Counts the arithmetic of the denoisers in `pipeline/catalogue.yaml`: ``python tests/benchmarks/flops.py``.

Each is the real class with the configuration that the model's repository has, on torch's meta device, which holds no
weights and computes nothing; torch's FlopCounterMode counts one forward pass (a multiply-add is two).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

Case = tuple[torch.nn.Module, dict[str, Any]]


def _stable_diffusion(width: int, heads: Any, linear: bool) -> Case:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=width, attention_head_dim=heads, use_linear_projection=linear
    )
    return model, {
        "sample": torch.empty(1, 4, 64, 64), "timestep": torch.empty(1),
        "encoder_hidden_states": torch.empty(1, 77, width),
    }  # fmt: skip


def _sdxl(side: int) -> Case:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=128, block_out_channels=(320, 640, 1280), cross_attention_dim=2048, attention_head_dim=[5, 10, 20],
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 2, 10],
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        use_linear_projection=True,
    )  # fmt: skip
    return model, {
        "sample": torch.empty(1, 4, side, side), "timestep": torch.empty(1),
        "encoder_hidden_states": torch.empty(1, 77, 2048),
        "added_cond_kwargs": {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)},
    }  # fmt: skip


def _pixart() -> Case:
    from diffusers import PixArtTransformer2DModel

    model = PixArtTransformer2DModel(
        sample_size=128, num_layers=28, attention_head_dim=72, num_attention_heads=16, in_channels=4, out_channels=8,
        cross_attention_dim=1152, caption_channels=4096, norm_type="ada_norm_single", use_additional_conditions=False,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.empty(1, 4, 128, 128), "encoder_hidden_states": torch.empty(1, 300, 4096),
        "timestep": torch.empty(1), "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }  # fmt: skip


def _sd3(layers: int, positions: int, dual: int) -> Case:
    from diffusers import SD3Transformer2DModel

    heads = 24 if dual else layers
    model = SD3Transformer2DModel(
        sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=layers, attention_head_dim=64,
        num_attention_heads=heads, joint_attention_dim=4096, caption_projection_dim=heads * 64,
        pooled_projection_dim=2048, pos_embed_max_size=positions, dual_attention_layers=tuple(range(dual)),
        qk_norm="rms_norm",
    )  # fmt: skip
    return model, {
        "hidden_states": torch.empty(1, 16, 128, 128), "encoder_hidden_states": torch.empty(1, 333, 4096),
        "pooled_projections": torch.empty(1, 2048), "timestep": torch.empty(1),
    }  # fmt: skip


def _flux() -> Case:
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=19, num_single_layers=38, attention_head_dim=128,
        num_attention_heads=24, joint_attention_dim=4096, pooled_projection_dim=768, guidance_embeds=False,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.empty(1, 4096, 64), "encoder_hidden_states": torch.empty(1, 256, 4096),
        "pooled_projections": torch.empty(1, 768), "timestep": torch.empty(1), "img_ids": torch.empty(4096, 3),
        "txt_ids": torch.empty(256, 3),
    }  # fmt: skip


CASES: dict[str, Callable[[], Case]] = {
    "sd-turbo": lambda: _stable_diffusion(1024, [5, 10, 20, 20], True),
    "stable-diffusion-v1-5": lambda: _stable_diffusion(768, 8, False),
    "sdxl-turbo": lambda: _sdxl(64),
    "stable-diffusion-xl-base-1.0": lambda: _sdxl(128),
    "PixArt-Sigma-XL-2-1024-MS": _pixart,
    "stable-diffusion-3.5-medium": lambda: _sd3(24, 384, 13),
    "stable-diffusion-3.5-large": lambda: _sd3(38, 192, 0),
    "FLUX.1-schnell": _flux,
}


def counted(name: str) -> tuple[float, float]:
    """Billions of parameters, and TFLOP of one forward pass."""
    with torch.device("meta"), torch.no_grad():
        model, inputs = CASES[name]()
        with FlopCounterMode(display=False) as counter:
            model(**inputs)
    return sum(weight.numel() for weight in model.parameters()) / 1e9, counter.get_total_flops() / 1e12


if __name__ == "__main__":
    for each in CASES:
        billions, tflop = counted(each)
        print(f"{each:<32}{billions:.3f} billion  {tflop:.3f} TFLOP", flush=True)
