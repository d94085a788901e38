"""Sections of a run's configuration that say where it runs, how far it may go, and what it tells."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import model_validator

from pipeline.config_base import Section, option, place, server_side_encryption
from pipeline.server_side_encryption import Sse

_LABEL = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"!?([A-Za-z0-9._-]+|in\([A-Za-z0-9._-]+(,[A-Za-z0-9._-]+)*\))")


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
        "shards under way at once in the whole run, from reading to commit; null = what pools have in hand and more",
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
