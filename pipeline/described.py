"""The description columns of a block: what the LLM wrote, or, where it is left out, the prompts as they are."""

from __future__ import annotations

import pyarrow as pa

from pipeline import columns as c


def described(
    block: pa.Table,
    rows: list[int],
    variants: list[int],
    texts: list[str | None],
    statuses: list[str | None],
    tokens: list[int],
    seconds: float,
) -> pa.Table:
    """The block's ``rows`` (one may stand several times, once a variant) with their descriptions; lists are as long.

    Args:
        block: rows of one shard with the control columns of `pipeline.columns`.
        rows: index into the block of each row of the result.
        variants, texts, statuses, tokens: of each row of the result; a text is None where the row is rejected.
        seconds: what describing the block took.
    """
    block = block.take(pa.array(rows, pa.int64()))
    for name, values, kind in (
        (c.VARIANT, variants, pa.int32()),
        (c.DESCRIPTION, texts, pa.string()),
        (c.STATUS, statuses, pa.string()),
        (c.TOKENS, tokens, pa.int64()),
        (c.EXPAND_SECONDS, [seconds] * len(rows), pa.float64()),
    ):
        block = block.append_column(name, pa.array(values, kind))
    return block


def prompts_as_descriptions(block: pa.Table) -> pa.Table:
    """Stands in for the LLM stage where ``expand`` is null: each prompt is its own description."""
    count = block.num_rows
    return described(
        block, list(range(count)), [0] * count, block[c.PROMPT].to_pylist(), ["prompt"] * count, [0] * count, 0.0
    )
