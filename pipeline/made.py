"""Which prompts an output has made, told from its rows without their images.

Two rows ask for the same when their words and what is honoured beside them are equal: prompt, recipe, negative prompt,
emphasis, number of images, seed, width and height. That is the content of which a row without an id gets its id
(`pipeline.row_ids`), and its 80-bit digest is the key here. Not part of it are a row's own id, which an export may
number anew each night, carried columns, and what is the same for a whole run (models, recipes, the run's seed).

Of an output whose table had no ids, the column ``prompt_id`` alone is read: it is the digest. Otherwise the content is
put together again from the columns of the output. Its rows say what came out, not what was asked: a seed is traced back
through the rule that images' seeds follow, and a size counts both as asked for and as left to the model, which is the
same picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from actors.errors import JobError, UserError
from actors.seeds import derive_seed
from pipeline.columns import INTEGERS, TEXTS, TableColumns
from pipeline.commit import committed_shards, decode_record, record_name
from pipeline.read_output import column_batches
from pipeline.row_ids import content_digest
from pipeline.run_record import read_run
from pipeline.storage import Store
from pipeline.verify import Outline, read_outline

Keys = npt.NDArray[np.bytes_]
_SIZE = 10
_AT_ONCE = 8
_SIDES = ("width", "height")


@dataclass(frozen=True)
class Earlier:
    """An output that may have made prompts already."""

    store: Store
    outline: Outline
    run: dict[str, Any]
    recorded: int

    @property
    def complete(self) -> bool:
        """Whether each of its shards is committed: what is unfinished counts for nothing."""
        return self.recorded == self.outline.shards


def open_earlier(store: Store) -> Earlier:
    """Looks at an output without reading its rows.

    Raises:
        UserError: it is no output, or a damaged one; or its prompts cannot be told from its rows.
    """
    outline, run = read_outline(store), read_run(store)
    config = run["identity"]["config"]
    where = f"'{store.public()}', one of the earlier outputs (nightly.since),"
    redact = config.get("redact") or {}
    hidden = sorted({*redact.get("drop", ()), *redact.get("hash", ())} & {"prompt", "id", *TEXTS, *INTEGERS})
    if hidden:
        raise UserError(f"{where} has redacted columns ({', '.join(hidden)}) that tell what it made; leave it out")
    honoured, generate = set(run["columns"]["honoured"]), config["generate"]
    unknown = [side for side in _SIDES if side in honoured and generate[side] is None]
    if "id" in honoured and unknown and generate["backend"] != "gan":
        raise UserError(
            f"{where} had ids and sizes of its own in each row and left {unknown[0]} to the model, so its rows do not "
            "tell what was asked; leave it out"
        )
    if honoured & {"image", "mask"}:
        raise UserError(f"{where} mended pictures, which are no part of what is compared; leave it out")
    recorded = sum(shard < outline.shards for shard in committed_shards(store))
    return Earlier(store, outline, run, recorded)


def made_keys(earlier: Earlier) -> Iterator[Keys]:
    """The keys of the prompts that an output has committed, shard by shard; a rejected row has none.

    Raises:
        JobError: an object that a record names cannot be read.
    """

    def one(shard: int) -> Keys:
        raw = earlier.store.read(record_name(shard))
        if raw is None:
            raise JobError(f"the record of shard {shard} of '{earlier.store.public()}' is gone since it was listed")
        record = decode_record(raw, earlier.store.public(record_name(shard)))
        if not record["images"]:
            return _keys([])
        found = [key for batch in _batches(earlier, record) for key in _keys_of(earlier.run, batch)]
        return np.unique(_keys(found))

    # A few shards ahead, so that what is not looked at yet takes no memory.
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="promptmill-made") as pool:
        for start in range(0, earlier.outline.shards, 4 * _AT_ONCE):
            yield from pool.map(one, range(start, min(start + 4 * _AT_ONCE, earlier.outline.shards)))


def asked_keys(table: pa.Table, columns: TableColumns) -> list[Keys]:
    """The keys of a prompt table's rows, each array one key a row; a row was made where one of its keys was.

    A column of whole numbers with gaps comes as floats from some writers and as integers from others: such a row has a
    key for each way to write it.
    """
    names = [name for name in (*TEXTS, *INTEGERS) if name in columns.honoured]
    values = {name: table[name].to_pylist() for name in names}
    prompts = table[columns.prompt].to_pylist()
    numeric = any(name in INTEGERS for name in names)
    found: list[list[bytes]] = [[] for _ in range(3 if numeric else 1)]
    for row, prompt in enumerate(prompts):
        content = {"prompt": prompt} | {n: values[n][row] for n in names if values[n][row] is not None}
        found[0].append(content_digest(content))
        if numeric:
            found[1].append(content_digest(_written(content, int)))
            found[2].append(content_digest(_written(content, float)))
    return [_keys(keys) for keys in found]


def _written(content: Mapping[str, Any], kind: type[int] | type[float]) -> dict[str, Any]:
    """The content with its whole numbers written as ``kind``, and gaps left out."""
    return {
        name: kind(value) if name in INTEGERS and float(value).is_integer() else value
        for name, value in content.items()
        if not (isinstance(value, float) and math.isnan(value))
    }


def _batches(earlier: Earlier, record: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    honoured = set(earlier.run["columns"]["honoured"])
    names = ["prompt_id"]
    if "id" in honoured:
        names += ["prompt", *(n for n in (*TEXTS, "num_images", *_SIDES) if n in honoured)]
        names += ["id", "variant", "image_index", "seed"] if "seed" in honoured else []
    return column_batches(earlier.store, earlier.outline.output_format, record, names)


def _keys_of(run: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[bytes]:
    honoured, config = set(run["columns"]["honoured"]), run["identity"]["config"]
    last = None
    for row in rows:
        if row["prompt_id"] == last:
            continue  # another image of the same prompt
        last = row["prompt_id"]
        if "id" not in honoured:
            yield bytes.fromhex(last.partition("-")[0])
            continue
        content = {"prompt": row["prompt"]} | {n: row[n] for n in TEXTS if n in honoured and row[n] is not None}
        if "num_images" in honoured and row["num_images"] is not None:
            content["num_images"] = row["num_images"]
        asked = _asked_seed(row, config) if "seed" in honoured else None
        if asked is not None:
            content["seed"] = asked
        sides = [[{}, {side: row[side]}] for side in _SIDES if side in honoured and _may_be_left(row, config, side)]
        fixed = {s: row[s] for s in _SIDES if s in honoured and not _may_be_left(row, config, s)}
        for chosen in product(*sides):
            whole = content | fixed
            for part in chosen:
                whole |= part
            yield content_digest(_written(whole, int))


def _asked_seed(row: dict[str, Any], config: dict[str, Any]) -> int | None:
    """The seed that a prompt's row had, from one of its images (see `pipeline.assemble.image_jobs`)."""
    if row["seed"] == derive_seed(config["seed"], "image", row["id"]):
        return None
    asked = row.get("num_images")
    count: int = config["generate"]["images"] if asked is None or math.isnan(asked) else int(asked)
    count = max(count, int(config["generate"]["candidates"]))
    return int(row["seed"]) - int(row["variant"]) * count - int(row["image_index"])


def _may_be_left(row: dict[str, Any], config: dict[str, Any], side: str) -> bool:
    """Whether a row without this size would have come out in it; a GAN has one size (see `open_earlier`)."""
    return bool(config["generate"][side] in (None, row[side]))


def _keys(digests: list[bytes]) -> Keys:
    return np.frombuffer(b"".join(digests), dtype=f"S{_SIZE}")
