"""An evaluation that was made, as it is kept: ``metrics.json`` for readers, ``figures.parquet`` for comparisons.

The latter has the sums of each prompt (metrics that are means) and the values of the seeded halves (metrics of a whole
distribution): all that the interval of a difference needs.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.errors import JobError, UserError
from pipeline.evaluation_report import EVALUATION, METRICS
from pipeline.measure import Metric
from pipeline.metrics.intervals import ByPrompt, Figure, Whole
from pipeline.storage import Store
from pipeline.storage_errors import public_uri

FIGURES = "figures.parquet"
_SCHEMA = pa.schema(
    [
        pa.field("metric", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("count", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Judged:
    """An evaluation: its metrics with their figures, and ``metrics.json``."""

    metrics: list[Metric]
    document: dict[str, Any]


def metric_line(metric: Metric, seed: int) -> dict[str, Any]:
    """A metric as ``metrics.json`` has it; what is not a finite number is null."""
    low, high = metric.interval(seed)
    line = {
        "name": metric.name, "value": metric.figure.value, "low": low, "high": high, "n": metric.figure.count,
        "how": metric.how, "better": metric.better, "beside_reference": metric.beside,
    }  # fmt: skip
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()
    }


def encode_figures(metrics: Sequence[Metric]) -> bytes:
    """``figures.parquet``: a row for each prompt, or for each half, of each metric."""
    parts = []
    for metric in metrics:
        figure = metric.figure
        if isinstance(figure, ByPrompt):
            columns: list[Any] = [list(figure.prompts), figure.sums, figure.counts]
        else:
            halves = np.asarray(figure.of_halves, np.float64)
            columns = [[None] * len(halves), halves, np.full(len(halves), np.nan)]
        arrays = [pa.array([metric.name] * len(columns[0]), pa.string()), pa.array(columns[0], pa.string())]
        arrays += [pa.array(column, pa.float64()) for column in columns[1:]]
        parts.append(pa.Table.from_arrays(arrays, schema=_SCHEMA))
    sink = io.BytesIO()
    pq.write_table(pa.concat_tables(parts) if parts else _SCHEMA.empty_table(), sink)
    return sink.getvalue()


def read_judged(uri: str, options: dict[str, Any] | None = None) -> Judged:
    """An evaluation read back from its directory, or from the promptmill output that it lies in.

    Raises:
        UserError: there is no evaluation.
        JobError: one of its files is damaged or gone.
    """
    for place in (uri.rstrip("/"), f"{uri.rstrip('/')}/{EVALUATION}"):
        store = Store(place, dict(options or {}))
        data = store.read(METRICS)
        if data is not None:
            break
    else:
        raise UserError(f"'{public_uri(uri)}' holds no evaluation: run `promptmill evaluate generated.uri=...` first")
    try:
        document = json.loads(data)
        table = pq.read_table(io.BytesIO(store.read(FIGURES) or b""), schema=_SCHEMA)
        metrics = [
            Metric(
                line["name"], _figure(line, table.filter(pc.field("metric") == line["name"])), line["how"],
                line["better"], line["beside_reference"],
            )
            for line in document["metrics"]
        ]  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise JobError(
            f"the evaluation in '{store.public()}' is damaged ({type(error).__name__}): make it anew"
        ) from error
    return Judged(metrics, document)


def _figure(line: dict[str, Any], rows: pa.Table) -> Figure:
    values = rows["value"].to_numpy()
    prompts = rows["prompt"].to_pylist()
    if prompts and prompts[0] is not None:
        return ByPrompt(prompts, values, rows["count"].to_numpy())
    return Whole(math.nan if line["value"] is None else line["value"], values, line["n"])
