"""The prompt table as a Ray Data source: one read task, one block, one shard.

A block holds the shard's carried columns untouched, and control columns that say what is asked of each row. A row that
cannot be made is not dropped here: it keeps its place with a reason, so that planned = committed + rejected holds.
Where there is no LLM stage the prompts are the descriptions: said here, it costs no process of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from actors.errors import RowError, UserError
from pipeline import columns as c
from pipeline import instruments, logs, traces
from pipeline.config import SynthesizeConfig
from pipeline.described import prompts_as_descriptions
from pipeline.plan import Plan, ShardPlan
from pipeline.prompts import PromptTable, open_fs, read_rows
from pipeline.quota import Quota
from pipeline.redact import Redaction
from pipeline.watching import Watching, of_shard


class ShardSource(Datasource):
    """Reads the given shards of a plan, one `ReadTask` each; use with ``override_num_blocks=len(shards)``."""

    def __init__(
        self,
        plan: Plan,
        shards: Sequence[int],
        config: SynthesizeConfig,
        recipes: frozenset[str],
        watching: Watching,
        quota: Quota | None = None,
    ) -> None:
        self._plan, self._shards, self._watching = plan, shards, watching
        # One copy in the object store: ten thousand tasks must not carry the table's footers ten thousand times.
        self._reader = ray.put((RowReader(plan.table, plan.columns, config, recipes), quota))

    def get_name(self) -> str:
        """The stage's name in Ray's dashboard."""
        return "PromptTable"

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown: it only steers how Ray Data cuts blocks, and these are never cut."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task a shard, whatever the parallelism that Ray Data asks for (it also asks to learn the schema)."""
        tasks = []
        for index in self._shards:
            shard = self._plan.shard(index)
            metadata = BlockMetadata(num_rows=shard.rows, size_bytes=None, input_files=None, exec_stats=None)
            tasks.append(ReadTask(partial(_read_shard, self._reader, shard, self._watching), metadata))
        return tasks


def redaction(config: SynthesizeConfig) -> Redaction:
    """What is dropped and hashed; nothing where the config has no such section."""
    own = config.redact
    return Redaction() if own is None else Redaction(tuple(own.drop), tuple(own.hash), own.salt)


def _read_shard(reader: Any, shard: ShardPlan, watching: Watching) -> Iterable[pa.Table]:
    watching.begin("read")
    found: tuple[RowReader, Quota | None] = ray.get(reader)
    rows, quota = found
    if quota is not None:
        quota.admit(shard.index)
    began, started = time.time(), time.monotonic()
    with of_shard(shard.index), traces.span("read", rows=shard.rows):
        blocks = list(rows.blocks(shard))
    if watching.trace is not None:
        blocks = [block.append_column(c.BEGAN, pa.array([began] * block.num_rows)) for block in blocks]
    seconds = time.monotonic() - started
    instruments.STAGE_SECONDS.observe(seconds, stage="read")
    logs.say("debug", "shard read", shard=shard.index, rows=shard.rows, seconds=seconds)
    return blocks


class RowReader:
    """Reads one shard's rows and settles what is asked of each."""

    def __init__(
        self, table: PromptTable, columns: c.TableColumns, config: SynthesizeConfig, recipes: frozenset[str]
    ) -> None:
        self._table, self._columns, self._config, self._recipes = table, columns, config, recipes
        self._redaction = redaction(config)

    def blocks(self, shard: ShardPlan) -> Iterable[pa.Table]:
        """The shard as one block, with descriptions where no LLM writes them."""
        fs = open_fs(self._table.uri, self._table.options)
        read, files = list(self._columns.read), self._table.files
        parts = [read_rows(fs, files[number], low, high, read) for number, low, high in shard.slices]
        table = pa.concat_tables(parts)
        if table.num_rows != shard.rows:
            raise UserError(
                f"shard {shard.index} has {table.num_rows} rows, its plan says {shard.rows}: "
                "the prompt table has changed since the plan was made"
            )
        block = self.prepare(table.combine_chunks(), shard)
        yield prompts_as_descriptions(block) if self._config.expand is None else block

    def prepare(self, table: pa.Table, shard: ShardPlan) -> pa.Table:
        """Adds the control columns (see `pipeline.columns`)."""
        ids, doubled = shard.ids(table, self._columns)
        own = table["id"].to_pylist() if "id" in self._columns.honoured else [None] * table.num_rows
        ids = self._redaction.ids(ids, [str(value or "") != "" for value in own])
        table = self._redaction.rows(table)
        asked: dict[str, list[Any]] = {name: [] for name in _ASKED}
        rejects: list[RowError | None] = []
        honoured = {
            name: table[name].to_pylist() if name in self._columns.honoured else [None] * table.num_rows
            for name in (*c.INTEGERS, *c.TEXTS)
        }
        for row, prompt in enumerate(table[self._columns.prompt].to_pylist()):
            values = {name: honoured[name][row] for name in honoured}
            error = None
            try:
                if doubled[row]:
                    raise RowError("duplicate_id", "an earlier row of the table has the same id")
                settled = self._settle(prompt, values)
            except RowError as caught:
                error, settled = caught, {}
            rejects.append(error)
            for name in asked:
                asked[name].append(settled.get(name))
        control: dict[str, Any] = {
            c.SHARD: pa.array([shard.index] * table.num_rows, pa.int64()),
            c.ROW: pa.array(range(table.num_rows), pa.int64()),
            c.ID: pa.array(ids, pa.string()),
            **{name: pa.array(asked[name], kind) for name, kind in _ASKED.items()},
            c.STAGE: pa.array(["read" if e else None for e in rejects], pa.string()),
            c.REASON: pa.array([e.reason if e else None for e in rejects], pa.string()),
            c.DETAIL: pa.array([e.detail if e else None for e in rejects], pa.string()),
        }
        for name, array in control.items():
            table = table.append_column(name, array)
        return table

    def _settle(self, prompt: str | None, values: dict[str, Any]) -> dict[str, Any]:
        """What is asked of one row, with the config's defaults; raises `RowError` where it cannot be made."""
        limits, generate, expand = self._config.limits, self._config.generate, self._config.expand
        if prompt is None or not prompt.strip() or not any(ch.isprintable() and not ch.isspace() for ch in prompt):
            raise RowError("empty_prompt", "the prompt is null, empty or has no visible character")
        if len(prompt) > limits.max_prompt_chars:
            raise RowError(
                "prompt_too_long", f"{len(prompt)} characters; limits.max_prompt_chars is {limits.max_prompt_chars}"
            )
        numbers = {name: _integer(name, values[name]) for name in c.INTEGERS}
        images = generate.images if numbers["num_images"] is None else numbers["num_images"]
        if not 1 <= images <= limits.max_images_per_prompt:
            raise RowError(
                "bad_num_images",
                f"num_images is {images}; it must be 1..{limits.max_images_per_prompt} (limits.max_images_per_prompt)",
            )
        if numbers["seed"] is not None and not 0 <= numbers["seed"] < 2**62:
            raise RowError("bad_seed", f"seed is {numbers['seed']}; it must be 0..2**62-1")
        width = generate.width if numbers["width"] is None else numbers["width"]
        height = generate.height if numbers["height"] is None else numbers["height"]
        # The other side is the model's own where one is null: the limit then holds for the side that is given.
        sides = [side for side in (width, height) if side is not None]
        if any(side < 1 for side in sides) or math.prod(sides) > limits.max_pixels:
            raise RowError("bad_size", f"{width}x{height} pixels; limits.max_pixels is {limits.max_pixels}")
        recipe = None
        if expand is not None:
            recipe = values["recipe"] or expand.recipe
            if recipe != expand.recipe and recipe not in self._recipes:
                raise RowError("unknown_recipe", f"no such recipe; known are {', '.join(sorted(self._recipes))}")
        return {
            c.PROMPT: prompt, c.RECIPE: recipe, c.EMPHASIS: values["emphasis"], c.NEGATIVE: values["negative_prompt"],
            c.IMAGES: images,
            c.SEED: numbers["seed"], c.WIDTH: width, c.HEIGHT: height,
        }  # fmt: skip


_ASKED = {
    c.PROMPT: pa.string(),
    c.RECIPE: pa.string(),
    c.EMPHASIS: pa.string(),
    c.NEGATIVE: pa.string(),
    c.IMAGES: pa.int32(),
    c.SEED: pa.int64(),
    c.WIDTH: pa.int32(),
    c.HEIGHT: pa.int32(),
}


def _integer(name: str, value: Any) -> int | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and not value.is_integer():
        raise RowError(f"bad_{name}", f"{name} is {value}; it must be a whole number")
    number = int(value)
    if not -(2**63) <= number < 2**63 or (name in {"width", "height"} and abs(number) >= 2**31):
        raise RowError("bad_size" if name in {"width", "height"} else f"bad_{name}", f"{name} is out of range")
    return number
