"""The typed configuration of a run. Its sections are in the modules beside, with each option's meaning and default."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from pipeline.config_base import Section, later_option, option, place
from pipeline.config_output import Output
from pipeline.config_running import Cluster, Limits, Log, Storage, Trace
from pipeline.config_stages import Expand, Generate, Prompts, Redact, Select, Shards


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
