"""What a verification says of an output: findings, each with what mends it, and the check of one shard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Mend = Literal["remake", "rewrite", "run", "collect", "none"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        kind: a short stable key: ``missing``, ``damaged``, ``record_damaged``, ``rows``, ``image``, ``foreign``,
            ``gap``, ``uncommitted``, ``orphan``, ``doubled_id``, ``run_record``.
        shard: its number; None where it is no shard's.
        name: the object.
        detail: one sentence.
        mend: what mends it: the shard ``remake``, the record ``rewrite``, a ``run`` of the same command, ``collect``
            by gc, or ``none`` that this program knows.
    """

    kind: str
    shard: int | None
    name: str
    detail: str
    mend: Mend


@dataclass
class ShardCheck:
    """What was found in one shard. ``record`` is the one that holds, None where there is none or it is damaged."""

    shard: int
    findings: list[Finding] = field(default_factory=list)
    record: dict[str, Any] | None = None
    recorded: bool = False
    objects: int = 0
    bytes: int = 0
