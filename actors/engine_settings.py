"""What the engines of the expand stage are told; apart from them, so that a driver need not import what they bring."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class OpenAISettings:
    """The endpoint, and how it is spoken to; picklable, and without the key."""

    base_url: str
    model: str
    key_env: str | None = None
    opening: Literal["free", "continue"] = "free"
    body: dict[str, Any] = field(default_factory=dict)
    max_tokens_field: str = "max_tokens"
    max_in_flight: int = 64
    timeout: float = 120.0
    patience: float = 300.0
    attempts: int = 5


@dataclass(frozen=True)
class VllmSettings:
    """How vLLM runs the model; None leaves a choice to vLLM. Picklable."""

    tensor_parallel: int = 1
    max_model_len: int | None = None
    quantization: str | None = None
    eager: bool = False
    lora: str | None = None
    max_lora_rank: int = 16
    gpu_memory: float = 0.9
