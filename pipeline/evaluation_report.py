"""An evaluation as a page of its own, and as a section of an output's report."""

from __future__ import annotations

import json
from typing import Any

from pipeline.page import render_page
from pipeline.storage import Store

EVALUATION = "evaluation"
"""Where an evaluation lies inside a promptmill output."""
METRICS, REPORT = "metrics.json", "report.html"


def render_evaluation(document: dict[str, Any]) -> str:
    """The page of a ``metrics.json``."""
    return render_page("evaluation.html.j2", evaluation=document)


def evaluation_of(store: Store) -> dict[str, Any] | None:
    """The ``metrics.json`` of an output's own evaluation, or None."""
    data = store.read(f"{EVALUATION}/{METRICS}")
    if data is None:
        return None
    try:
        document: dict[str, Any] = json.loads(data)
    except ValueError:
        # A page about a dataset must not fail for what lies beside it.
        return None
    return document
