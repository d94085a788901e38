"""Names and types of the columns: of the prompt table, of a block between the stages, and of the output."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as pt

from actors.errors import UserError
from pipeline.config_stages import Prompts
from pipeline.plain_parquet import refuse_objects
from pipeline.storage_errors import public_uri

INTEGERS = ("num_images", "seed", "width", "height")
TEXTS = ("recipe", "negative_prompt", "emphasis")
PICTURES = ("image", "mask")
"""To go on from, where the image model mends pictures."""
REJECT_FIELDS = [
    pa.field("reject_stage", pa.string()),
    pa.field("reject_reason", pa.string()),
    pa.field("reject_detail", pa.string()),
]
IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
SCORES = pa.struct([pa.field("similarity", pa.float32())])
OUTPUT_FIELDS = [
    pa.field("id", pa.string()),
    pa.field("prompt_id", pa.string()),
    pa.field("prompt", pa.string()),
    pa.field("description", pa.string()),
    pa.field("description_status", pa.string()),
    pa.field("variant", pa.int32()),
    pa.field("image_index", pa.int32()),
    pa.field("seed", pa.int64()),
    pa.field("image", IMAGE),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("scores", SCORES),
]

# Control columns: what the stages of one run tell one another beside the carried columns. The prefix keeps them apart.
PREFIX = "__promptmill_"
SHARD, ROW, ID, PROMPT, RECIPE, NEGATIVE, IMAGES, SEED, WIDTH, HEIGHT = (
    PREFIX + name
    for name in ("shard", "row", "id", "prompt", "recipe", "negative", "images", "seed", "width", "height")
)
STAGE, REASON, DETAIL = (PREFIX + name for name in ("reject_stage", "reject_reason", "reject_detail"))
EMPHASIS = PREFIX + "emphasis"
VARIANT, DESCRIPTION, STATUS, TOKENS, PROMPT_TOKENS, EXPAND_SECONDS = (
    PREFIX + name for name in ("variant", "description", "status", "tokens", "prompt_tokens", "expand_seconds")
)


BEGAN = PREFIX + "began"
"""When the shard was read, in seconds since the epoch; only where it is traced."""


@dataclass(frozen=True)
class TableColumns:
    """How the columns of one prompt table are used; all names are as in the table.

    ``read`` is what is read at all; ``carried`` goes into the output untouched. `id`, the prompt column, `seed`,
    `width` and `height` are not carried because the output has them in its own columns.
    """

    prompt: str
    read: tuple[str, ...]
    carried: tuple[str, ...]
    honoured: frozenset[str]


def choose_columns(schema: pa.Schema, config: Prompts, *, pictures: bool = False) -> TableColumns:
    """Checks a prompt table's schema and decides which of its columns are honoured, carried and read.

    ``pictures``: the image stage works from pictures, the columns ``image`` and ``mask``; they are not carried.

    Raises:
        UserError: no prompt column, a wrong type, a carried column that has the name of an output column.
    """
    where = f"prompt table '{public_uri(config.uri)}'"
    names = schema.names
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise UserError(f"{where} has several columns named {sorted(doubled)}; rename all but one")
    if config.column not in names:
        raise UserError(f"{where} has no column '{config.column}'; set prompts.column to one of {names}")
    _require(schema, config.column, _is_text, "a string", where)
    honoured = {"id", *INTEGERS, *TEXTS} & set(names) - {config.column}
    for name in honoured & {"id"}:
        _require(schema, name, lambda t: _is_text(t) or pt.is_integer(t), "a string or an integer", where)
    for name in honoured & set(INTEGERS):
        # pandas turns an integer column with gaps into floats: taken, and checked row by row.
        _require(schema, name, lambda t: pt.is_integer(t) or pt.is_floating(t) or pt.is_null(t), "an integer", where)
    for name in honoured & set(TEXTS):
        _require(schema, name, lambda t: _is_text(t) or pt.is_null(t), "a string", where)
    if pictures:
        if "image" not in names:
            raise UserError(f"{where} has no column 'image', and generate works from pictures; it has {names}")
        for name in set(PICTURES) & set(names):
            _require(schema, name, _is_picture, "an image (bytes, {bytes, path} or a URI)", where)
        honoured |= set(PICTURES) & set(names)

    own = {config.column, "id", "seed", "width", "height", *(honoured & set(PICTURES))} | {
        f.name for f in REJECT_FIELDS
    }
    wanted = names if config.columns is None else config.columns
    for name in wanted:
        if name not in names:
            raise UserError(f"{where} has no column '{name}', which prompts.columns asks for; it has {names}")
    carried = tuple(n for n in names if n not in own and (n in wanted or n in honoured))
    clashes = sorted(set(carried) & {f.name for f in OUTPUT_FIELDS} | {n for n in names if n.startswith(PREFIX)})
    if clashes:
        raise UserError(
            f"{where} has columns named like columns of the output: {clashes}; rename them, or leave them out by "
            "listing the carried ones in prompts.columns"
        )
    read = tuple(n for n in names if n == config.column or n in honoured or n in carried)
    for name in read:
        refuse_objects(schema.field(name), config.uri)
    return TableColumns(config.column, read, carried, frozenset(honoured))


def _is_text(kind: pa.DataType) -> bool:
    if pt.is_dictionary(kind):
        kind = kind.value_type
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _is_picture(kind: pa.DataType) -> bool:
    if pt.is_struct(kind):
        return {"bytes", "path"} & {kind.field(number).name for number in range(kind.num_fields)} != set()
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or _is_text(kind))


def _require(schema: pa.Schema, name: str, fits: object, wanted: str, where: str) -> None:
    kind = schema.field(name).type
    if not fits(kind):  # type: ignore[operator]
        raise UserError(f"column '{name}' of {where} must be {wanted} column, it is {kind}")
