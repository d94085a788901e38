"""The prompts of one night: those rows of the table that no earlier output has made, chosen once and kept.

    OUTPUT/_run/prompts.parquet    the chosen rows, put first and only if absent; its metadata says how they were chosen

The run then is an ordinary one over this table. So the same date's command plans the same rows however often it is run,
whatever has become of the table, of the earlier outputs and of the clock since; and a second driver that chose others
takes what is there.

Memory: some 30 bytes for each row of tonight's table (its key, sorted, and a mark); the earlier outputs stream past it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from actors.errors import JobError, UserError
from actors.model_uri import resolve_model
from pipeline.columns import INTEGERS, TEXTS, TableColumns, choose_columns
from pipeline.config import SynthesizeConfig
from pipeline.graph import encryption_settings
from pipeline.image_parts import reads_pictures
from pipeline.made import Earlier, Keys, asked_keys, made_keys, open_earlier
from pipeline.parquet_encryption import ParquetEncryption
from pipeline.plain_parquet import PlainParquet
from pipeline.prompts import PromptTable, open_table
from pipeline.run_date import DATE, DatedPlace
from pipeline.run_record import RUN
from pipeline.storage import Store
from pipeline.storage_errors import public_uri

PROMPTS = "_run/prompts.parquet"
_FORMAT = 1
_METADATA = b"promptmill.incremental"
_GROUP_ROWS, _GROUP_BYTES = 65_536, 64 << 20


@dataclass(frozen=True)
class Chosen:
    """How the prompts of a night were chosen.

    Args:
        rows: chosen, to be made.
        table_rows: of the table that they were chosen from.
        made_before: rows of it that earlier outputs have.
        compared: the earlier outputs, as {output, fingerprint}.
        before: whether they were chosen by an earlier start of this date's run.
    """

    rows: int
    table_rows: int
    made_before: int
    compared: list[dict[str, str]]
    before: bool = False


def choose_prompts(
    config: SynthesizeConfig,
    store: Store,
    since: Sequence[str],
    place: DatedPlace,
    date: str,
    say: Callable[[str], None] = lambda text: None,
) -> Chosen:
    """Chooses the prompts of a date, or finds those that were chosen; nothing is written where none is left.

    Args:
        config: with the date filled in.
        store: of this date's output.
        since: `nightly.since`.

    Raises:
        UserError: an earlier output cannot be compared, or is none; see also `pipeline.prompts.open_table`.
        JobError: the store failed for as long as it was tried.
    """
    chosen = _read(store)
    if chosen is not None:
        say(f"the {chosen.rows} prompts of {date} were chosen by an earlier start, of {chosen.table_rows}")
        return chosen
    if store.read(RUN) is not None:
        raise UserError(
            f"'{store.public()}' holds a run that was not incremental; set nightly.incremental=false to go on with it, "
            "or choose another output.uri"
        )
    _refuse_what_cannot_be_told(config)
    table = open_table(config.prompts)
    columns = choose_columns(table.schema, config.prompts)
    earlier = list(find_earlier(store, since, place, date, say))
    made = _made_rows(table, columns, earlier)
    left = int(table.rows - made.sum())
    compared = [{"output": one.store.public(), "fingerprint": one.outline.fingerprint} for one in earlier]
    fresh = Chosen(left, table.rows, table.rows - left, compared)
    if left == 0:
        return fresh
    store.probe()
    with store.scratch() as scratch:
        path = scratch / "prompts.parquet"
        account = {"format": _FORMAT, **dataclasses.asdict(fresh)}
        _write(path, table, columns, ~made, account, encryption_settings(config))
        store.create(PROMPTS, path)
    # Whoever came first has chosen: this start, or another one that saw other earlier outputs.
    chosen = _read(store)
    if chosen is None:
        raise JobError(f"'{store.public(PROMPTS)}' was put and is gone; run again to resume")
    return dataclasses.replace(chosen, before=False)


def chosen_config(config: SynthesizeConfig, store: Store) -> SynthesizeConfig:
    """The config of the run over the chosen prompts."""
    own = config.storage
    told = {"uri": f"{store.uri.rstrip('/')}/{PROMPTS}", "limit": None, "options": own.options, "sse": own.sse}
    return config.model_copy(update={"prompts": config.prompts.model_copy(update=told)})


def find_earlier(
    store: Store, since: Sequence[str], place: DatedPlace, date: str, say: Callable[[str], None] = lambda text: None
) -> Iterator[Earlier]:
    """The complete outputs that ``since`` names, each once; of the own template only those of earlier dates.

    Raises:
        UserError: a URI without a glob names no output.
    """
    parent = neighbour(store, place.parent)
    seen: set[str] = {store.path("")}
    for pattern in since or [f"{place.parent.rstrip('/')}/{place.template}"]:
        glob = pattern.rstrip("/").replace(DATE, "*")
        asked = neighbour(store, glob)
        roots = _expand(asked) if any(sign in glob for sign in "*?[") else [glob]
        for root in roots:
            one = neighbour(store, root)
            if one.path("") in seen:
                continue
            seen.add(one.path(""))
            above, _, name = one.root.rpartition("/")
            own = place.date_of(name) if above == parent.root else None
            if own is not None and own >= date:
                continue
            if one.read(RUN) is None:
                if root == glob:
                    raise UserError(f"nightly.since names '{one.public()}', which is no output of promptmill")
                continue
            earlier = open_earlier(one)
            if earlier.complete:
                yield earlier
            else:
                say(
                    f"'{one.public()}' is unfinished ({earlier.recorded} of {earlier.outline.shards} shards), so its "
                    "prompts count as not made: finish it first (promptmill nightly --date) if you want it"
                )


def neighbour(store: Store, uri: str) -> Store:
    """A store at another place, spoken to as this one where it is of the same kind."""
    same = uri.partition("://")[0] == store.uri.partition("://")[0] if "://" in store.uri else "://" not in uri
    return dataclasses.replace(store, uri=uri, options=store.options if same else {})


def _expand(store: Store) -> list[str]:
    """The directories that a glob matches, as URIs, sorted."""

    def attempt() -> list[str]:
        store.fs.invalidate_cache()
        # With details: isdir answers False to an error that passes.
        return sorted(path for path, told in store.fs.glob(store.root, detail=True).items() if told["type"] != "file")

    paths = store.request(attempt, "", "list")
    return paths if store.local else [store.fs.unstrip_protocol(path) for path in paths]


def _refuse_what_cannot_be_told(config: SynthesizeConfig) -> None:
    if config.redact is not None:
        raise UserError(
            f"nightly.incremental keeps the chosen rows beside the output as they are ({PROMPTS}), which redact is to "
            "prevent; set nightly.incremental=false, or use output.encryption"
        )
    painter = resolve_model(config.generate.model, allow_unsafe=config.unsafe_painter)
    if reads_pictures(config.generate, painter.path):
        raise UserError(
            "nightly.incremental compares words, and generate works from pictures, which are no part of them; "
            "set nightly.incremental=false"
        )


def _made_rows(table: PromptTable, columns: TableColumns, earlier: Sequence[Earlier]) -> npt.NDArray[np.bool_]:
    """For each row of the table whether one of the earlier outputs has it."""
    if not earlier:
        return np.zeros(table.rows, np.bool_)
    names = [columns.prompt, *(name for name in (*TEXTS, *INTEGERS) if name in columns.honoured)]
    parts = [asked_keys(batch, columns) for batch in table.batches(names)]
    ways: list[Keys] = [np.concatenate(way) for way in zip(*parts, strict=True)]
    asked = np.unique(np.concatenate(ways))
    found = np.zeros(len(asked), np.bool_)
    for one in earlier:
        for keys in made_keys(one):
            at = np.searchsorted(asked, keys)
            at = np.where(at < len(asked), at, 0)
            found[at[asked[at] == keys]] = True
    made = np.zeros(table.rows, np.bool_)
    for way in ways:
        made |= found[np.searchsorted(asked, way)]
    return made


def _write(
    path: Path,
    table: PromptTable,
    columns: TableColumns,
    wanted: npt.NDArray[np.bool_],
    account: dict[str, Any],
    encryption: ParquetEncryption | None,
) -> None:
    """Copies the wanted rows, with the columns that the run reads, in their order; encrypted whole where the run is."""
    names = list(columns.read)
    schema = pa.schema([table.schema.field(name) for name in names], {_METADATA: json.dumps(account).encode()})
    waiting: list[pa.Table] = []
    row = 0
    sealed = encryption.properties() if encryption else None
    with pq.ParquetWriter(path, schema, encryption_properties=sealed) as writer:
        for batch in table.batches(names):
            kept = batch.select(names).filter(pa.array(wanted[row : row + batch.num_rows]))
            row += batch.num_rows
            waiting.append(kept)
            # Row groups of a useful size, however few rows of each batch are new.
            if sum(t.num_rows for t in waiting) >= _GROUP_ROWS or sum(t.nbytes for t in waiting) >= _GROUP_BYTES:
                writer.write_table(pa.concat_tables(waiting).cast(schema))
                waiting.clear()
        if waiting:
            writer.write_table(pa.concat_tables(waiting).cast(schema))


def _read(store: Store) -> Chosen | None:
    where = store.public(PROMPTS)
    metadata = store.parse(PROMPTS, lambda stream: dict(PlainParquet(stream, where).stored.metadata or {}))
    if metadata is None:
        return None
    try:
        account = json.loads(metadata[_METADATA])
        if account.pop("format") != _FORMAT:
            raise ValueError("another version")
        return Chosen(**{**account, "before": True})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"'{store.public(PROMPTS)}' was not put there by this promptmill; choose another output.uri "
            f"than '{public_uri(store.uri)}'"
        ) from error
