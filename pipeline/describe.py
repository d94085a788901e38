"""Describes an output: the dataset card and the report page, always from its records and data objects alone."""

from __future__ import annotations

from typing import Any

from pipeline.card import read_front_matter, render_card
from pipeline.commit import committed_shards, each_record, read_records
from pipeline.config_output import Card
from pipeline.evaluation_report import evaluation_of
from pipeline.facts import Facts, read_schema
from pipeline.read_output import sample_rows, sample_shards
from pipeline.report import render_report
from pipeline.run_record import read_run
from pipeline.storage import Store
from pipeline.summary import Totals, add_up
from pipeline.timings import read_rates

CARD, REPORT = "README.md", "report.html"
_SAMPLE_IMAGES = 48


def describe_output(store: Store, card: Card, totals: Totals) -> None:
    """Writes ``README.md`` and ``report.html`` over what is there.

    Args:
        card: what the run cannot know: title and licence.
        totals: sums over the commit records.

    Raises:
        UserError: the output has no run record, or cannot be written.
        JobError: an object that a record names cannot be read back; or the store failed for as long as it was tried.
    """
    _describe(store, totals, {"title": card.title, "license": card.license})


def describe_again(store: Store) -> None:
    """Writes both pages anew; title, licence and languages stay as the present card's header says.

    An unfinished output is described as far as it is committed. Raises as `describe_output`.
    """
    read_run(store)  # says in one sentence where this is no output at all
    totals = add_up(each_record(store, sorted(committed_shards(store))))
    header = read_front_matter(store.read(CARD) or b"")
    default = Card()
    languages = header.get("language") or ()
    texts = {
        "title": str(header.get("pretty_name") or default.title),
        "license": str(header.get("license") or default.license),
        "languages": [languages] if isinstance(languages, str) else [str(language) for language in languages],
    }
    _describe(store, totals, texts)


def is_described(store: Store) -> bool:
    """Whether both pages are there."""
    return store.size(CARD) is not None and store.size(REPORT) is not None


def _describe(store: Store, totals: Totals, texts: dict[str, Any]) -> None:
    # As stored, not as this process would write it: whoever describes the output says the same.
    run = read_run(store)
    output_format = run["identity"]["config"]["output"]["format"]
    # The pages are readable by whoever can read the place: of encrypted rows they show nothing, and need no key.
    sealed = run["identity"]["config"]["output"].get("encryption") is not None
    # Without a single image it is only the columns that are shown, and any shard has them.
    records = read_records(store, sample_shards(totals.images_of, _SAMPLE_IMAGES) or [*totals.images_of][:1])
    facts = Facts(run, totals, None if sealed else read_schema(store, output_format, records), **texts)
    store.replace(CARD, render_card(facts).encode())
    sample = [] if sealed else sample_rows(store, output_format, records, _SAMPLE_IMAGES)
    store.replace(REPORT, render_report(facts, read_rates(store), sample, evaluation_of(store)).encode())
