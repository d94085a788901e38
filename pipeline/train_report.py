"""The page of a training run, report.html: a curve of each logged value, and the sample sheets over time."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.page import render_page
from pipeline.storage import Store

REPORT = "report.html"
SHEETS = "sheets"
_SHOWN_SHEETS = 8
_HIDDEN = ("phase", "step", "seconds")
_POINTS = 400
_WIDTH, _HEIGHT = 300, 90


@dataclass(frozen=True)
class Curve:
    """One value over the steps of a phase; ``path`` is SVG path data in a box of 300 x 90."""

    name: str
    path: str
    first: float
    last: float
    low: float
    high: float


def put_train_report(store: Store, lines: Sequence[Mapping[str, Any]]) -> None:
    """Writes OUTPUT/report.html from the log's lines and the sheets that the store has; it loads nothing."""
    names = [entry.name for entry in store.list(SHEETS) if entry.name.endswith(".png")]
    phases = list(dict.fromkeys(line["phase"] for line in lines))
    order = {phase: place for place, phase in enumerate(phases)}
    names.sort(key=lambda name: (order.get(_told(name)[0], len(order)), _told(name)[1]))
    if len(names) > _SHOWN_SHEETS:
        places = {round(place * (len(names) - 1) / (_SHOWN_SHEETS - 1)) for place in range(_SHOWN_SHEETS)}
        names = [names[place] for place in sorted(places)]
    page = render_page(
        "train_report.html.j2",
        title=store.public().rstrip("/").rpartition("/")[2],
        phases=[(phase, curves([line for line in lines if line["phase"] == phase])) for phase in phases],
        last=lines[-1] if lines else None,
        hours=sum(line.get("seconds", 0.0) for line in lines) / 3600,
        sheets=[
            (*_told(name), base64.b64encode(store.read(name) or b"").decode()) for name in reversed(names)
        ],
        config=json.dumps(json.loads(store.read("run.json") or b"{}"), indent=1, ensure_ascii=False),
    )  # fmt: skip
    store.replace(REPORT, page.encode())


def curves(lines: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The curves of one phase's lines; long ones are thinned to 400 points, by the mean of neighbours."""
    found = []
    for name in dict.fromkeys(key for line in lines for key in line if key not in _HIDDEN):
        points = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]
        points = [(step, value) for step, value in points if math.isfinite(value)]
        if len(points) < 2:
            continue
        every = -(-len(points) // _POINTS)
        thin = [_mean(points[first : first + every]) for first in range(0, len(points), every)]
        low, high = min(value for _, value in thin), max(value for _, value in thin)
        start, stop = thin[0][0], thin[-1][0]
        places = [
            (
                _WIDTH * (step - start) / max(stop - start, 1e-9),
                _HEIGHT - 4 - (_HEIGHT - 8) * ((value - low) / (high - low) if high > low else 0.5),
            )
            for step, value in thin
        ]
        path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        found.append(Curve(name, path, points[0][1], points[-1][1], low, high))
    return found


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(step for step, _ in points) / len(points), sum(value for _, value in points) / len(points)


def _told(name: str) -> tuple[str, int]:
    """Phase and step of a sheet, from its name."""
    phase, _, step = name.rpartition("/")[2].removesuffix(".png").rpartition("-")
    return phase, int(step) if step.isdecimal() else 0
