"""How pages are made: escaped, inert, self-contained; everything on them that others wrote passes through `visible`."""

from __future__ import annotations

import base64
import hashlib
import math
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.inert_text import shortened, visible

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str | Path, **values: Any) -> str:
    """A page of the templates' directory, with the one style sheet that its Content-Security-Policy names by hash.

    Args:
        template: a name in that directory, or the whole path of another one.
    """
    place = _TEMPLATES / template
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(place.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["visible"] = visible
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["figure"] = figure
    environment.filters["short"] = lambda value: f"{value:.4g}"
    environment.filters["lines"] = lambda text: visible(text, lines=True)
    environment.filters["recipe"] = lambda text: shortened(visible(text, lines=True), 4000)
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    return environment.get_template(place.name).render(
        style=Markup(style), style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(), **values
    )


def figure(value: float | None) -> str:
    """A number with three significant digits, all digits from 1,000 on; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
