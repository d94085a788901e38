"""One image again from its row: ``promptmill render-row OUTPUT ID``."""

from __future__ import annotations

from pathlib import Path

from pipeline.inert_text import printable


def run(
    output: str, image_id: str, to: Path, model: str | None, sse: str | None = None, *, unsafe: bool = False
) -> None:
    """Renders the image, writes it, and says whether it is the stored one byte for byte."""
    from pipeline.render_row import render_row
    from pipeline.server_side_encryption import with_sse
    from pipeline.storage import Store

    rendered = render_row(Store(output, with_sse({}, sse)), image_id, model, allow_unsafe=unsafe)
    to.write_bytes(rendered.data)
    verdict = "the same bytes as in the dataset" if rendered.same else "NOT the same bytes as in the dataset"
    if not rendered.same and rendered.same_pixels:
        verdict += ", but the same pixels (a signed image is another file each time)"
    print(f"{printable(str(to))}: {len(rendered.data)} bytes, {verdict}")
