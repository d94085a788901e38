"""Lines of the log, alike from drivers and actors: who says it, of which run and shard; JSON in jobs, else plain.

Every value is made inert before it is written (no control character, no credential), in JSON too: whoever decodes it
may print it on a terminal. What prompts and models say goes into a line only through `words`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.config_running import Log
from pipeline.inert_text import printable, shortened
from pipeline.without_secrets import without_secrets

Level = Literal["debug", "info", "warning", "error"]
_MOST = 2000
"""Characters of one value at most."""


@dataclass(frozen=True)
class LogSettings:
    """How a process of the run writes its lines; picklable, so that actors follow their driver."""

    json: bool = False
    level: Level = "info"
    prompts: bool = False


_settings = LogSettings()
_process: dict[str, str] = {}
_begun = False


def log_settings(config: Log) -> LogSettings:
    """The config's settings with ``auto`` decided: a Ray job or a pod writes JSON, a terminal or a pipe plain lines."""
    job = not sys.stderr.isatty() and any(name in os.environ for name in _JOBS)
    return LogSettings(config.format == "json" or (config.format == "auto" and job), config.level, config.prompts)


_JOBS = ("RAY_JOB_CONFIG_JSON_ENV_VAR", "KUBERNETES_SERVICE_HOST")


def begin(settings: LogSettings, **process: str) -> None:
    """Has this process write so from now on; ``process`` (run, actor) stands in each of its lines."""
    global _settings, _begun
    import structlog

    _settings = settings
    _process.update(process)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, _inert, _rendered],
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        # Asked for at each line: a run puts another stream in its place for a while (`pipeline.cluster`).
        logger_factory=lambda *given: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    for name in ("promptmill", "pipeline", "actors"):
        library = logging.getLogger(name)
        if not any(isinstance(handler, _Bridge) for handler in library.handlers):
            library.addHandler(_Bridge())
        library.propagate = False
    _begun = True


def reset() -> None:
    """Plain lines again, of no run: a command begins."""
    global _begun, _settings
    _process.clear()
    _settings, _begun = LogSettings(), False


def settings() -> LogSettings:
    """As this process writes now."""
    return _settings


def bind(**process: str) -> None:
    """Adds to what stands in each line of this process."""
    _process.update(process)


@contextlib.contextmanager
def of_shard(shard: int) -> Iterator[None]:
    """Lines of this thread are the shard's while the block runs."""
    import structlog

    with structlog.contextvars.bound_contextvars(shard=shard):
        yield


def say(level: Level, event: str, **fields: Any) -> None:
    """Writes one line to standard error.

    Args:
        level: lines below the option ``log.level`` are not written.
        event: what happened, in the project's own words.
        fields: what more there is to know; no words of prompts or models, which go through `words`.
    """
    import structlog

    if not _begun:
        begin(LogSettings())
    getattr(structlog.get_logger(), level)(event, **fields)


def words(event: str, **fields: Any) -> None:
    """Writes one line that holds words of a prompt or a model; nothing without ``--log-prompts`` (``log.prompts``)."""
    if _settings.prompts:
        say("info", event, **fields)


def last_line(event: str) -> str:
    """The line that another process is to write when this one has ended: an error, of no time."""
    line: MutableMapping[str, Any] = {"event": event, "level": "error"}
    return _rendered(None, "", _inert(None, "", line), clock=False)


def _inert(_logger: Any, _name: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {name: _harmless(value) for name, value in (_process | dict(line)).items()}


def _harmless(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(value, 3)
    return shortened(printable(without_secrets(str(value))), _MOST)


def _rendered(_logger: Any, _name: str, line: MutableMapping[str, Any], *, clock: bool = True) -> str:
    level, event = line.pop("level"), line.pop("event")
    if _settings.json:
        from datetime import UTC, datetime

        told = {"timestamp": datetime.now(UTC).isoformat(timespec="milliseconds")} if clock else {}
        return json.dumps({**told, "level": level, "event": event, **line}, ensure_ascii=False)
    return _plain(event, line)


def _plain(event: str, line: MutableMapping[str, Any]) -> str:
    # On a terminal there is one run, and the driver is who speaks: only what differs is said.
    shown = {n: v for n, v in line.items() if n != "run" and (n, v) != ("actor", "driver")}
    return " ".join([f"promptmill: {event}", *(f"{name}={value}" for name, value in shown.items())])


def plain(text: str) -> str:
    """Lines of a job's log for a person: those of JSON as they would stand on a terminal, others as they are."""
    shown = []
    for line in text.splitlines(keepends=True):
        try:
            told = json.loads(line) if line.startswith('{"timestamp": ') else {}
            del told["timestamp"], told["level"]
            shown.append(_plain(told.pop("event"), told) + "\n")
        except (ValueError, KeyError):
            shown.append(line)
    return "".join(shown)


class _Bridge(logging.Handler):
    """Takes what modules tell to Python's own logging."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the record as a line."""
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        if record.levelno < logging.WARNING:
            level = "info" if record.levelno >= logging.INFO else "debug"
        say(level, record.getMessage())
