"""The report: one self-contained page without scripts; what was made, how fast, and a contact sheet.

Everything on it that others wrote (prompts, descriptions, ids, config) passes through `visible` and jinja2's escaping.
The page's Content-Security-Policy names the one style sheet by its hash: an injected element could load nothing.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from actors.images import ImageEncoder
from pipeline.card import flatten
from pipeline.facts import Facts
from pipeline.inert_text import compact, shortened, visible
from pipeline.page import figure, render_page
from pipeline.read_output import OutputRow
from pipeline.timings import Rates

_THUMBNAIL = 256
_LARGEST = 40 << 10
_TEXT = 400


@dataclass(frozen=True)
class Bar:
    """One bar of a chart: ``share`` of the whole width, 0..1; ``kind`` is its colour's name in the style sheet."""

    label: str
    value: str
    share: float
    kind: str


@dataclass(frozen=True)
class Picture:
    """One image of the contact sheet; ``source`` is a data URI, empty where the image could not be read.

    ``similarity`` is a dash where nothing was scored.
    """

    source: str
    id: str
    prompt: str
    description: str
    status: str
    similarity: str
    width: int
    height: int


def render_report(
    facts: Facts, rates: Rates | None, sample: Sequence[OutputRow], evaluation: dict[str, Any] | None = None
) -> str:
    """The page as HTML.

    Args:
        rates: as measured; None where nothing was.
        sample: rows for the contact sheet.
        evaluation: ``metrics.json`` of the output's own evaluation; None where there is none.
    """
    return render_page(
        "report.html.j2",
        facts=facts,
        evaluation=evaluation,
        funnel=_funnel(facts),
        descriptions=_counts(facts.totals.descriptions, {"accepted": "good", "prompt": "plain"}, "warn"),
        reasons=_counts(facts.totals.reasons, {}, "bad"),
        rates=_rates(rates),
        stages=_stages(rates),
        settings=[(key, compact(value)) for key, value in flatten(facts.config) if value is not None],
        pictures=[_picture(row) for row in sample],
    )


def _funnel(facts: Facts) -> list[Bar]:
    totals = facts.totals
    most = max(facts.rows_in, totals.images, 1)
    steps = [
        ("rows in", facts.rows_in, "plain"),
        ("committed", totals.committed, "good"),
        ("rejected", totals.rejected, "bad"),
        ("not made yet", facts.rows_missing, "warn"),
        ("images", totals.images, "plain"),
    ]
    return [
        Bar(label, f"{number:,}", number / most, kind)
        for label, number, kind in steps
        if number or label != "not made yet"
    ]


def _counts(counts: dict[str, int], kinds: dict[str, str], other: str) -> list[Bar]:
    whole = max(sum(counts.values()), 1)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [Bar(name, f"{n:,} ({_percent(n / whole)})", n / whole, kinds.get(name, other)) for name, n in ordered]


def _rates(rates: Rates | None) -> list[tuple[str, str]]:
    """(what, figure): each of one actor while it works at nothing else."""
    if rates is None:
        return []
    figures = [
        ("tokens/s of a language model actor", rates.tokens, rates.expand_seconds),
        ("descriptions: rows/s of a language model actor", rates.rows if rates.tokens else 0, rates.expand_seconds),
        ("images/s rendered by an image actor", rates.images, rates.render_seconds),
        ("images/s written and committed by an image actor", rates.images, rates.write_seconds),
    ]
    return [(label, figure(number / seconds)) for label, number, seconds in figures if number and seconds > 0]


def _stages(rates: Rates | None) -> list[Bar]:
    if rates is None:
        return []
    seconds = rates.stages
    whole = sum(seconds.values())
    if whole <= 0:
        return []
    return [Bar(name, f"{figure(s)} s ({_percent(s / whole)})", s / whole, "plain") for name, s in seconds.items() if s]


def _picture(row: OutputRow) -> Picture:
    values = row.values
    prompt = values["prompt"] or ""  # null where words are redacted
    description = values["description"] if values["description"] not in (None, prompt) else ""
    return Picture(
        source=_data_uri(row),
        id=visible(shortened(values["id"], 120)),
        prompt=visible(shortened(prompt, _TEXT)),
        description=visible(shortened(description, _TEXT)),
        status=visible(values["description_status"]),
        similarity=figure((values.get("scores") or {}).get("similarity")),
        width=values["width"],
        height=values["height"],
    )


def _data_uri(row: OutputRow) -> str:
    """The stored file where it is small, else a thumbnail that carries the same marks."""
    data = row.image
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            kind = (image.format or "").lower()
            if max(image.size) > _THUMBNAIL or len(data) > _LARGEST:
                image.draft("RGB", (_THUMBNAIL, _THUMBNAIL))
                small = image.convert("RGB")
                small.thumbnail((_THUMBNAIL, _THUMBNAIL))
                kind, data = "webp", ImageEncoder("webp", 80).encode(np.asarray(small), row.values["id"]).data
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        # A page about a dataset must not fail for one picture of it: `promptmill verify` finds damage.
        return ""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _percent(share: float) -> str:
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    return f"{min(max(share, 0.001), 0.999):.1%}"
