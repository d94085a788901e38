"""Rounds of synthesis: the prompts whose images match their words least are described and drawn anew; the best is kept.

    OUTPUT/round-0/             an ordinary run over the whole prompt table
    OUTPUT/round-1/ ...         ordinary runs over the prompts with the lowest similarity so far
    OUTPUT/prompts/round-1.parquet ...   their prompt tables
    OUTPUT/best/                Parquet: for each prompt the images of its best round
    OUTPUT/refine.json, report.html      similarity by round

Each round is a run with commit records of its own, and its table is a function of the rounds before: the same command
goes on where it was interrupted, and repeats the same bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.checks import missing_words
from actors.errors import JobError, UserError
from pipeline.commit import committed_shards, each_record
from pipeline.config import SynthesizeConfig
from pipeline.graph import encryption_settings
from pipeline.page import render_page
from pipeline.parquet_keys import open_parquet
from pipeline.plain_parquet import refuse_objects
from pipeline.prompts import open_fs, read_rows
from pipeline.refine_config import RefineConfig
from pipeline.source import redaction
from pipeline.storage import Store
from pipeline.synthesize import open_store, settle, synthesize

BEST, RECORD, REPORT = "best", "refine.json", "report.html"
_COLUMNS = ("prompt_id", "prompt", "description", "scores")


@dataclass
class Best:
    """What a prompt has reached: its best mean similarity, the round of it, and that round's description."""

    similarity: float
    round: int
    prompt: str
    description: str


@dataclass(frozen=True)
class Round:
    """One round: prompts asked, images made, the mean over all prompts of their best similarity, and why it ended."""

    number: int
    prompts: int
    images: int
    similarity: float
    improved: int


def refine(
    config: RefineConfig,
    *,
    address: str | None = None,
    quiet: bool = False,
    debug: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[list[Round], str]:
    """Runs the rounds, or what is missing of them; returns what each reached, and why the last was the last.

    Raises:
        UserError, JobError: see `actors.errors`; as `pipeline.synthesize.synthesize`.
    """
    if config.output.format != "parquet":
        raise UserError(f"refine reads its rounds back: output.format must be parquet, it is {config.output.format}")
    own, store = config.refine, open_store(config)
    best: dict[str, Best] = {}
    rounds: list[Round] = []
    images, reason = 0, f"refine.rounds={own.rounds} rounds were made"
    if redaction(config).hides_words:
        raise UserError("refine reads words back from its rounds, which redact hides: leave prompt and description in")
    for number in range(own.rounds + 1):
        run = _round_config(config, number)
        if number:
            chosen = _lowest(best, own.share)
            table = _prompt_table(config, chosen, best)
            if table.num_rows == 0:
                reason = "no prompt is left"
                break
            _put_prompts(store, number, table, config)
        say(f"round {number}")
        summary = synthesize(run, address=address, quiet=quiet, debug=debug, say=say)
        images += summary.totals.images
        improved = _take(best, open_store(run), number)
        mean = sum(one.similarity for one in best.values()) / max(1, len(best))
        rounds.append(Round(number, summary.totals.planned, summary.totals.images, mean, improved))
        if number and mean - rounds[-2].similarity < own.min_gain:
            reason = f"the gain of round {number} was below refine.min_gain={own.min_gain:g}"
            break
        if own.images is not None and images >= own.images:
            reason = f"{images} images were made, refine.images={own.images}"
            break
    _write_best(store, config, best, len(rounds))
    document = {"rounds": [asdict(one) for one in rounds], "ended": reason, "prompts": len(best)}
    store.replace(RECORD, json.dumps(document, indent=2).encode())
    store.replace(REPORT, render_page("refine.html.j2", title=store.public(), **document).encode())
    return rounds, reason


def _round_config(config: RefineConfig, number: int) -> SynthesizeConfig:
    """The ordinary run of a round: scored, under its own output, from round 1 on with other variants and recipes."""
    told = config.model_dump(exclude={"refine"})
    base = told["output"]["uri"].rstrip("/")
    told["output"]["uri"] = f"{base}/round-{number}"
    told["select"]["score"] = True
    if number:
        own = told["storage"]
        table = {"uri": f"{base}/{_prompts(number)}", "limit": None, "options": own["options"], "sse": own["sse"]}
        told["prompts"] = {**told["prompts"], **table}
        if told["expand"] is not None:
            told["expand"]["first_variant"] += number * told["expand"]["variants"]
            if config.refine.recipes:
                told["expand"]["recipe"] = config.refine.recipes[(number - 1) % len(config.refine.recipes)]
        else:
            # Nothing is written anew: other noise is all that a round can change.
            told["seed"] += number
    return SynthesizeConfig.model_validate(told)


def _prompts(number: int) -> str:
    return f"prompts/round-{number}.parquet"


def _put_prompts(store: Store, number: int, table: pa.Table, config: RefineConfig) -> None:
    name = _prompts(number)
    if store.create(name, _parquet(table, config)):
        return
    # Tables and not bytes: an encrypted table is another file each time.
    if open_parquet(io.BytesIO(store.read(name) or b""), store.public(name)).read() != table:
        raise UserError(
            f"'{store.public(name)}' names other prompts than this run chooses: it was made with other settings of "
            "refine; set them back, or choose another output.uri"
        )


def _lowest(best: dict[str, Best], share: float) -> list[str]:
    ordered = sorted(best, key=lambda prompt: (best[prompt].similarity, prompt))
    return ordered[: round(share * len(ordered))]


def _take(best: dict[str, Best], store: Store, number: int) -> int:
    """Adds a round's prompts where they are better than before; returns for how many."""
    improved = 0
    found: dict[str, list[Any]] = {}
    for table in _shards(store, _COLUMNS):
        for row in table.to_pylist():
            one = found.setdefault(row["prompt_id"], [0.0, 0, row["prompt"], row["description"]])
            one[0] += row["scores"]["similarity"]
            one[1] += 1
    for prompt, (total, count, text, description) in found.items():
        if prompt not in best or total / count > best[prompt].similarity:
            improved += prompt in best
            best[prompt] = Best(total / count, number, text, description)
    return improved


def _prompt_table(config: RefineConfig, chosen: list[str], best: dict[str, Best]) -> pa.Table:
    """The chosen rows of the prompt table, as they are, with their ids and the words that their images lost."""
    run, _ = settle(_round_config(config, 0), open_store(_round_config(config, 0)))
    wanted, parts = set(chosen), []
    fs, columns = open_fs(run.plan.table.uri, run.plan.table.options), run.plan.columns
    for index in range(run.plan.shards):
        shard = run.plan.shard(index)
        files, read = run.plan.table.files, list(columns.read)
        slices = [read_rows(fs, files[number], low, high, read) for number, low, high in shard.slices]
        table = pa.concat_tables(slices)
        ids, doubled = shard.ids(table, columns)
        kept = [not twice and own in wanted for own, twice in zip(ids, doubled, strict=True)]
        names = [name for name in table.column_names if name not in {"id", "emphasis"}]
        rows = table.select(names).filter(pa.array(kept))
        own = [name for name, one in zip(ids, kept, strict=True) if one]
        lost = [", ".join(missing_words(best[name].prompt, best[name].description)) or None for name in own]
        rows = rows.append_column("id", pa.array(own, pa.string()))
        parts.append(rows.append_column("emphasis", pa.array(lost, pa.string())))
    return pa.concat_tables(parts)


def _write_best(store: Store, config: RefineConfig, best: dict[str, Best], rounds: int) -> None:
    """For each shard of each round the rows of the prompts whose best round it is, with the columns of round 0."""
    names: list[str] = []
    written: set[str] = set()
    for number in range(rounds):
        mine = pa.array([prompt for prompt, one in best.items() if one.round == number], pa.string())
        for shard, table in enumerate(_shards(open_store(_round_config(config, number)))):
            names = names or table.column_names
            kept = table.select(names).filter(pc.is_in(table["prompt_id"], value_set=mine))
            written.add(f"{BEST}/round-{number}-{shard:06d}.parquet")
            store.replace(f"{BEST}/round-{number}-{shard:06d}.parquet", _parquet(kept, config))
    # An earlier run may have gone through more rounds: what it left would double prompts.
    for entry in store.list(BEST):
        if entry.name not in written:
            store.remove(entry.name)


def _shards(store: Store, columns: tuple[str, ...] | None = None) -> Iterator[pa.Table]:
    for record in each_record(store, sorted(committed_shards(store))):
        opened = store.open(record["data"]["name"])
        if opened is None:
            raise JobError(f"'{store.public(record['data']['name'])}' is gone, and the record of its shard names it")
        with opened as stream:
            own = open_parquet(stream, store.public(record["data"]["name"]))
            table = own.read(None if columns is None else list(columns))
        for field in table.schema:
            refuse_objects(field, store.public(record["data"]["name"]))
        yield table


def _parquet(table: pa.Table, config: RefineConfig) -> bytes:
    sealed, sink = encryption_settings(config), io.BytesIO()
    pq.write_table(table, sink, encryption_properties=sealed.properties() if sealed else None)
    return sink.getvalue()
