"""Card and report of an output built anew: ``promptmill report OUTPUT``."""

from __future__ import annotations

from pipeline.inert_text import printable


def run(output: str, sse: str | None = None) -> None:
    """Rebuilds both pages from the records and data objects, and prints where the report is."""
    from pipeline.describe import REPORT, describe_again
    from pipeline.server_side_encryption import with_sse
    from pipeline.storage import Store

    store = Store(output, with_sse({}, sse))
    describe_again(store)
    print(printable(store.public(REPORT)))
