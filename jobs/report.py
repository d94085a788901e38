"""Card and report of an output built anew: ``promptmill report OUTPUT``."""

from __future__ import annotations


def run(output: str) -> None:
    """Rebuilds both pages from the records and data objects, and prints where the report is."""
    from pipeline.describe import REPORT, describe_again
    from pipeline.storage import Store

    store = Store(output)
    describe_again(store)
    print(store.public(REPORT))
