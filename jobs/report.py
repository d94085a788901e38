"""Card and report of an output built anew: ``promptmill report OUTPUT``."""

from __future__ import annotations

from jobs.printing import printable


def run(output: str) -> None:
    """Rebuilds both pages from the records and data objects, and prints where the report is."""
    from pipeline.describe import REPORT, describe_again
    from pipeline.storage import Store

    store = Store(output)
    describe_again(store)
    print(printable(store.public(REPORT)))
