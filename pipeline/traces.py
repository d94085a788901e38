"""Traces of a shard's way through the processes, by option: read, expand, render, encode, put, record.

All of a shard's spans join in one trace without being handed on: trace and root have ids that follow from the run's
fingerprint and the shard's number, so each process can work them out. With the option off nothing is imported, and a
span costs one comparison. Spans hold counts and names, never words of prompts, nor what an error says.
"""

from __future__ import annotations

import contextlib
import importlib.util
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.errors import UserError
from pipeline.config_running import Trace

if TYPE_CHECKING:
    from pipeline.tracer import Tracer


@dataclass(frozen=True)
class TraceSettings:
    """Where the spans of a run go; picklable."""

    fingerprint: str
    otlp: str | None
    directory: str | None


_settings: TraceSettings | None = None
_tracer: Tracer | None = None


def trace_settings(config: Trace, fingerprint: str) -> TraceSettings | None:
    """The config's settings; None where nothing is traced.

    Raises:
        UserError: what exports is not installed.
    """
    if config.otlp is None and config.dir is None:
        return None
    wanted = "opentelemetry.sdk.trace" if config.otlp is None else "opentelemetry.exporter.otlp.proto.http"
    try:
        there = importlib.util.find_spec(wanted) is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        raise UserError("traces need the extra `trace`: pip install 'promptmill[trace]'")
    return TraceSettings(fingerprint, config.otlp, config.dir)


def begin(settings: TraceSettings | None, run: str, actor: str) -> None:
    """Has this process traced from now on, or no more; the same settings again change nothing."""
    global _settings, _tracer
    if settings == _settings:
        return
    _settings, _tracer = settings, None
    if settings is not None:
        from pipeline.tracer import Tracer

        _tracer = Tracer(settings.fingerprint, settings.otlp, settings.directory, run, actor)


def of_shard(shard: int) -> AbstractContextManager[None]:
    """Spans of this thread are parts of the shard's trace while the block runs."""
    return contextlib.nullcontext() if _tracer is None else _tracer.of_shard(shard)


def span(name: str, **counts: int | str) -> AbstractContextManager[None]:
    """One step of the shard's way; ends with the block, as failed where an error leaves it."""
    return contextlib.nullcontext() if _tracer is None else _tracer.span(name, counts)


def finish_shard(shard: int, began: float | None, **counts: int | str) -> None:
    """Tells the shard's root, from its reading until now, and sends what waits to be sent.

    Args:
        shard: its number.
        began: seconds since the epoch at which it was read; None where nobody has noted it.
        counts: attributes of the root.
    """
    if _tracer is not None:
        _tracer.finish_shard(shard, began, counts)
