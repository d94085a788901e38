"""The run record: the fingerprint of everything that determines the output, put first and only if absent."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from actors.errors import UserError
from pipeline.columns import TableColumns
from pipeline.commit import FORMAT_VERSION, decode_record, encode_record
from pipeline.config import SynthesizeConfig
from pipeline.image_parts import part_places
from pipeline.one_kind import RUN as RUN
from pipeline.one_kind import refuse_training
from pipeline.plan import Plan
from pipeline.prompts import PromptTable
from pipeline.row_ids import find_repeats
from pipeline.storage import Store
from pipeline.storage_errors import public_uri
from promptmill import __version__

_LIBRARIES = ("torch", "transformers", "diffusers", "pillow")


@dataclass(frozen=True)
class ModelHashes:
    """SHA-256 of the models' files; ``expand`` is None where the LLM stage is off, ``select`` where none scores.

    ``parts`` are what the image stage loads beside its model (`pipeline.image_parts`).
    """

    expand: str | None
    generate: str
    select: str | None = None
    expand_lora: str | None = None
    parts: Mapping[str, str] = field(default_factory=dict)

    def told(self) -> dict[str, str | None]:
        """By stage; what came later is there only where it is used."""
        found = {"expand": self.expand, "generate": self.generate, "select": self.select}
        return found | ({"expand_lora": self.expand_lora} if self.expand_lora else {}) | dict(self.parts)


@dataclass(frozen=True)
class Run:
    """A run whose place is settled: its fingerprint, its plan, and its record as stored or to be stored."""

    fingerprint: str
    plan: Plan
    record: dict[str, Any]
    stored: bool

    @property
    def hashes(self) -> dict[str, str | None]:
        """The SHA-256 of the run's models, by stage; None or absent where a stage has none."""
        told: dict[str, str | None] = self.record["identity"]["models"]
        return told


def describe_run(
    store: Store,
    config: SynthesizeConfig,
    table: PromptTable,
    columns: TableColumns,
    models: ModelHashes,
    recipes: dict[str, str],
    checks: Mapping[str, str | None] = MappingProxyType({}),
) -> Run:
    """Computes the run's fingerprint and compares it with the one that owns the output, writing nothing.

    Args:
        recipes: the full text of each recipe that the run may use, by name.
        checks: what tells keys of the environment from others (None: there is none): one output, one key.

    Raises:
        UserError: the output belongs to another fingerprint, the message shows what differs; or to a training run.
    """
    raw = store.read(RUN)
    if raw is None:
        refuse_training(store)
    known = decode_record(raw, store.public(RUN)) if raw is not None else None
    tokens = table.tokens()
    if known is not None and known["table"]["files"] == tokens and _same_columns(known, config, columns):
        # The files are as they were: neither hash them again nor look for repeated ids, or resuming would cost rows.
        content, repeats = known["table"]["sha256"], {int(k): v for k, v in known["table"]["repeats"].items()}
    else:
        content, repeats = table.content_hash(), find_repeats(table, columns)
    identity = {
        "format": FORMAT_VERSION,
        "config": config.identity(),
        "table": {"sha256": content, "rows": table.rows},
        "models": models.told(),
        "recipes": recipes,
    }
    identity |= {name: check for name, check in checks.items() if check is not None}
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    record = {
        "format": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "identity": identity,
        "table": {"files": tokens, "sha256": content, "repeats": {str(k): v for k, v in repeats.items()}},
        "columns": {"carried": list(columns.carried), "honoured": sorted(columns.honoured)},
        "models": {
            "expand": public_uri(config.expand.model) if config.expand else None,
            "generate": public_uri(config.generate.model),
            "select": public_uri(config.select.model) if config.selects else None,
        }
        | ({"expand_lora": public_uri(lora)} if (lora := config.expand and config.expand.lora) else {})
        | part_places(config.generate),
        "versions": {"promptmill": __version__} | {name: _version(name) for name in _LIBRARIES},
    }
    if known is not None:
        _require_same(store, known, record)
    plan = Plan(table, columns, config.shards.rows, repeats)
    return Run(fingerprint, plan, known or record, stored=known is not None)


def claim(store: Store, run: Run) -> Run:
    """Puts the run record if the output has none yet; another driver's equal record is as good as ours."""
    if run.stored or store.create(RUN, encode_record(run.record)):
        return run
    raw = store.read(RUN)
    if raw is not None:
        _require_same(store, decode_record(raw, store.public(RUN)), run.record)
    return run


def read_run(store: Store) -> dict[str, Any]:
    """The run record of an output; raises `UserError` where there is none."""
    raw = store.read(RUN)
    if raw is None:
        raise UserError(f"'{store.public()}' is no output of promptmill: it has no {RUN}")
    return decode_record(raw, store.public(RUN))


def _same_columns(known: dict[str, Any], config: SynthesizeConfig, columns: TableColumns) -> bool:
    then = known["identity"]["config"]["prompts"]
    return bool(
        then["column"] == config.prompts.column
        and then["limit"] == config.prompts.limit
        and known["columns"]["honoured"] == sorted(columns.honoured)
    )


def _require_same(store: Store, known: dict[str, Any], record: dict[str, Any]) -> None:
    if known["fingerprint"] == record["fingerprint"]:
        return
    differences = list(_differences(known["identity"], record["identity"]))
    shown = "; ".join(differences[:4]) + (f"; and {len(differences) - 4} more" if len(differences) > 4 else "")
    raise UserError(
        f"output '{store.public()}' belongs to another run: {shown or 'its record was changed by hand'}; "
        "mend the config, or choose another output.uri"
    )


def _differences(there: Any, here: Any, key: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for name in sorted(there.keys() | here.keys()):
            yield from _differences(there.get(name), here.get(name), f"{key}.{name}" if key else name)
    elif there != here:
        name = key.removeprefix("config.")
        if name == "table.sha256":
            yield "the prompt table's content is another"
        else:
            yield f"{name} is {_short(there)} there and {_short(here)} here"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:30]}...{text[-6:]}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
