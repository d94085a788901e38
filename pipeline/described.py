"""The description columns of a block: what the LLM wrote, or, where it is left out, the prompts as they are."""

from __future__ import annotations

import pyarrow as pa

from actors.contracts import Description
from pipeline import columns as c


def described(
    block: pa.Table,
    rows: list[int],
    variants: list[int],
    made: list[Description | None],
    seconds: float,
) -> pa.Table:
    """The block's ``rows`` (one may stand several times, once a variant) with their descriptions; lists are as long.

    Args:
        block: rows of one shard with the control columns of `pipeline.columns`.
        rows: index into the block of each row of the result.
        variants, made: of each row of the result; None where the row is rejected.
        seconds: what describing the block took.
    """
    block = block.take(pa.array(rows, pa.int64()))
    for name, values, kind in (
        (c.VARIANT, variants, pa.int32()),
        (c.DESCRIPTION, [one.text if one else None for one in made], pa.string()),
        (c.STATUS, [one.status if one else None for one in made], pa.string()),
        (c.TOKENS, [one.tokens if one else 0 for one in made], pa.int64()),
        (c.PROMPT_TOKENS, [one.prompt_tokens if one else 0 for one in made], pa.int64()),
        (c.EXPAND_SECONDS, [seconds] * len(rows), pa.float64()),
    ):
        block = block.append_column(name, pa.array(values, kind))
    return block


def prompts_as_descriptions(block: pa.Table) -> pa.Table:
    """Stands in for the LLM stage where ``expand`` is null: each prompt is its own description."""
    count = block.num_rows
    texts: list[str | None] = block[c.PROMPT].to_pylist()
    made = [None if text is None else Description(text, "prompt", 0) for text in texts]
    return described(block, list(range(count)), [0] * count, made, 0.0)
