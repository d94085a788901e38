"""One night: choose the prompts, make the dataset, verify it, move ``latest.json``, delete what is old, tell of it.

Each step is safe to repeat, and looks first at what an earlier start has done: the same command goes on wherever it was
cut off. Nothing is deleted before the pointer has moved, and the pointer does not move before the output was verified.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from actors.errors import JobError, PromptmillError
from pipeline.config import SynthesizeConfig
from pipeline.incremental import choose_prompts, chosen_config, find_earlier, neighbour
from pipeline.latest import LATEST, move, pointer_to
from pipeline.morning import Night, check_target, deliver, sentence
from pipeline.nightly_config import NightlyConfig
from pipeline.retention import delete_older, put_note
from pipeline.run_date import DatedPlace, dated, dated_place, fill
from pipeline.storage import Store
from pipeline.summary import refuse_rejects
from pipeline.synthesize import Interrupted, open_store, signals, synthesize
from pipeline.verify import verify


def nightly(
    config: NightlyConfig,
    date: str,
    *,
    address: str | None = None,
    quiet: bool = False,
    debug: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Night:
    """Makes one date's dataset, or what is missing of it, and all that follows.

    Args:
        date: YYYY-MM-DD.
        address, quiet, debug, say: as for `pipeline.synthesize.synthesize`.

    Raises:
        UserError, JobError, Interrupted: as for `pipeline.synthesize.synthesize`; the summary is delivered first.
    """
    begun = time.monotonic()
    own, place = config.nightly, dated_place(config.output.uri)
    run = SynthesizeConfig.model_validate(dated(config, date).model_dump(exclude={"nightly"}))
    store = open_store(run)
    night = Night(date, store.public())
    if own.summary is not None:
        check_target(fill(own.summary, date, "nightly.summary"))

    def tell(text: str) -> None:
        night.remarks.append(text)
        say(text)

    try:
        with signals():
            _work(config, run, store, place, night, address=address, quiet=quiet, debug=debug, say=say, tell=tell)
    except BaseException as error:
        night.state = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        night.error = "a signal ended it; run again to resume" if night.state == "interrupted" else sentence(error)
        night.seconds = time.monotonic() - begun
        _deliver_failure(own.summary, night, store, say)
        raise
    night.seconds = time.monotonic() - begun
    if own.summary is not None:
        try:
            deliver(own.summary, night, store)
        except PromptmillError as error:
            raise JobError(f"the night is done, and its summary was not delivered: {error}") from error
    return night


def _work(
    config: NightlyConfig,
    run: SynthesizeConfig,
    store: Store,
    place: DatedPlace,
    night: Night,
    *,
    address: str | None,
    quiet: bool,
    debug: bool,
    say: Callable[[str], None],
    tell: Callable[[str], None],
) -> None:
    own, date = config.nightly, night.date
    note: dict[str, object] = {"incremental": None}
    if own.incremental:
        night.chosen = choose_prompts(run, store, own.since, place, date, tell)
        if night.chosen.rows == 0:
            night.state = "nothing to do"
            say(f"nothing to do: all {night.chosen.table_rows} prompts of {date} are made")
            return
        run = chosen_config(run, store)
        note = {
            "incremental": {
                "rows": night.chosen.rows,
                "table_rows": night.chosen.table_rows,
                "compared": night.chosen.compared,
            }
        }
    put_note(store, place, date, note)
    night.summary = synthesize(run, address=address, quiet=quiet, debug=debug, say=say)
    refuse_rejects(night.summary.totals, run.limits.max_reject_fraction, night.summary.output)
    report = verify(store, deep=own.deep_verify, quiet=quiet)
    parent = neighbour(store, place.parent)
    night.moved = move(parent, pointer_to(place, date, report), back=own.move_back)
    if night.moved.pointer.date > date:
        tell(f"{LATEST} stays at {night.moved.pointer.date}; nightly.move_back=true moves it to this older date")
    if not night.moved.atomic:
        tell(f"this store has no compare-and-swap: let one run at a time move {LATEST}")
    if own.keep is not None:
        needed: set[str] = set()
        if own.incremental:
            # Tomorrow's run will compare with these: whatever is of an earlier date than tomorrow's.
            needed = {one.store.root for one in find_earlier(store, own.since, place, "9999-12-31")} | {store.root}
        night.deleted = delete_older(
            parent, place, night.moved.pointer, own.keep, lambda output: output.root in needed, tell
        )
    night.state = "done"


def _deliver_failure(target: str | None, night: Night, store: Store, say: Callable[[str], None]) -> None:
    if target is None:
        return
    try:
        deliver(target, night, store)
    except PromptmillError as error:
        # The first error is the one that the run ends with.
        say(f"the summary was not delivered: {error}")
