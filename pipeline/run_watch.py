"""The driver's metrics: what is planned and committed, how long nothing came, what waits where, what it costs.

Outcomes are counted here and not in the actors: each shard arrives once, whoever else made it too.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

import ray

from pipeline import instruments
from pipeline.board import Board
from pipeline.config import SynthesizeConfig
from pipeline.cost import prices

_EVERY = 2.0
_PATIENCE = 6.0


class RunWatch:
    """Records a run while the block runs. Nothing in it can fail or delay the run.

    Args:
        config: of the run.
        run: its short name.
        planned: shards of the plan.
        committed: of them, before this start.
        board: where the stages tell what they do.
    """

    def __init__(self, config: SynthesizeConfig, run: str, planned: int, committed: int, board: Board) -> None:
        self._config, self._run, self._board = config, run, board
        self._planned, self._committed, self._made = planned, committed, 0
        self._prices, self._cost = prices(config), 0.0
        self._moved = self._paid = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="promptmill-watch", daemon=True)

    def add(self, outcome: dict[str, Any]) -> None:
        """Counts one shard's outcome (`pipeline.outcome.OUTCOME_SCHEMA`)."""
        with self._lock:
            self._moved = time.monotonic()
            self._committed += 1
            self._made += 1
            self._cost += self._prices.tokens(outcome["prompt_tokens"], outcome["tokens"])
        instruments.SHARDS.add(how="adopted" if outcome["adopted"] else "made")
        instruments.ROWS.add(outcome["rows"] - outcome["rejected"], outcome="committed")
        instruments.ROWS.add(outcome["rejected"], outcome="rejected")
        instruments.IMAGES.add(outcome["images"])
        instruments.OUTPUT_BYTES.add(outcome["bytes"])
        instruments.TOKENS.add(outcome["tokens"], kind="generated")
        instruments.TOKENS.add(outcome["prompt_tokens"], kind="read")
        for status, count in outcome["descriptions"]:
            instruments.DESCRIPTIONS.add(count, status=status)
        for reason, count in outcome["reasons"]:
            instruments.REJECTS.add(count, reason=reason)
        self._set()

    def __enter__(self) -> RunWatch:
        instruments.start(self._run)
        self._set()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        # Ray would start anew under a thread that still asks it when the connection has ended.
        self._thread.join(_PATIENCE)
        if error is None:
            self._sample()
        instruments.stop()

    def _beat(self) -> None:
        # A thread of its own: where the cluster does not answer, only this one waits for it.
        while not self._stop.wait(_EVERY):
            self._sample()

    def _sample(self) -> None:
        try:
            resources, waiting, inside = ray.cluster_resources(), *self._board.queues()
        except Exception:  # noqa: BLE001 - the cluster is going or gone: the run itself will say so
            return
        with self._lock:
            now = time.monotonic()
            self._cost += self._prices.machines(resources, now - self._paid)
            self._paid = now
        for stage, shards in waiting.items():
            instruments.QUEUE.set(shards, stage=stage)
        for stage, shards in inside.items():
            instruments.INSIDE.set(shards, stage=stage)
        self._set()

    def _set(self) -> None:
        limits = self._config.limits
        with self._lock:
            committed, made, cost = self._committed, self._made, self._cost
            since = time.monotonic() - self._moved
        instruments.SHARDS_PLANNED.set(self._planned)
        instruments.SHARDS_COMMITTED.set(committed)
        instruments.SINCE_COMMIT.set(since)
        instruments.STALL_LIMIT.set(limits.stall_timeout)
        instruments.REJECT_LIMIT.set(limits.max_reject_fraction)
        if self._prices.known:
            instruments.COST.set(cost)
            if made:
                instruments.COST_EXPECTED.set(cost / made * self._planned)
            if limits.planned_cost is not None:
                instruments.COST_PLANNED.set(limits.planned_cost)
