"""What an evaluation costs once its features are there: 100,000 rows of 512 numbers beside 20,000 of a reference.

All metrics with their intervals, from Parquet to figures, beside two bare float64 covariances of the same rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.evaluate_config import Measures
from pipeline.feature_table import FeatureRows, FeatureTable
from pipeline.gather import gather
from pipeline.judged import metric_line
from pipeline.measure import measure
from pipeline.storage import Store
from tests.benchmarks.harness import Bench, Comparison, Contest, timed

ROWS, REFERENCE, WIDTH, PART, IMAGES = 100_000, 20_000, 512, 10_000, 4


def evaluation(bench: Bench) -> Contest:
    """Seconds of both; no target: it tells how the cost of an evaluation changes from version to version."""
    store = Store(str(bench.scratch))
    tables = {name: _table(store, name, rows) for name, rows in (("made", ROWS), ("real", REFERENCE))}
    settings = Measures()

    rows = np.concatenate([_unit(part, PART) for part in range(ROWS // PART)])

    def bare() -> None:
        np.cov(rows.astype(np.float64).T)
        np.cov(rows[:REFERENCE].astype(np.float64).T)

    def ours() -> None:
        made, real = (gather(table, 0, settings.subset, name) for name, table in tables.items())
        metrics, _ = measure(made, real, "random", settings, 0)
        for metric in metrics:
            metric_line(metric, 0)

    return Contest(
        {"all metrics": lambda: timed(ours), "two covariances": lambda: timed(bare)},
        [Comparison("all metrics", "two covariances", "seconds")],
        turns=1,
        warm=False,
    )


def _table(store: Store, name: str, rows: int) -> FeatureTable:
    table = FeatureTable(store, name, rows // PART)
    Path(store.path(name)).mkdir()
    for part in range(table.parts):
        numbers = range(part * PART, (part + 1) * PART)
        found = FeatureRows(
            [f"{name}-{n}" for n in numbers], [f"prompt-{n // IMAGES}" for n in numbers],
            [f"text {n // IMAGES}" for n in numbers], _unit(part, PART), _unit(part + 1000, PART),
            np.zeros((PART, 0), np.float32), [None] * PART,
        )  # fmt: skip
        store.create(table.name(part), found.encode())
    return table


def _unit(seed: int, rows: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)
