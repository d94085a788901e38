"""The main job: settle the run, make what is not committed yet, count everything, describe the dataset."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from actors.content_credentials import ImageSigner
from actors.model_uri import resolve_model
from actors.recipes import recipe_names
from pipeline import logs
from pipeline.board import Board
from pipeline.cluster import connected, missing_resources, without_gpus
from pipeline.columns import OUTPUT_FIELDS, choose_columns
from pipeline.commit import committed_shards, each_record
from pipeline.config import SynthesizeConfig
from pipeline.consume import consume
from pipeline.describe import describe_output, is_described
from pipeline.drivers import announced
from pipeline.facts import SERVED
from pipeline.graph import encryption_settings, recipe_texts, signer_settings
from pipeline.image_parts import part_hashes, reads_pictures
from pipeline.outcome import Arrived
from pipeline.progress import RunProgress
from pipeline.prompts import open_table
from pipeline.run_record import ModelHashes, Run, claim, describe_run
from pipeline.run_watch import RunWatch
from pipeline.server_side_encryption import with_sse
from pipeline.source import redaction
from pipeline.storage import Store
from pipeline.summary import Totals, account
from pipeline.timings import Rates, read_rates
from pipeline.traces import trace_settings
from pipeline.watching import run_name


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived: finished shards stay, the same command goes on."""

    def __init__(self, number: int) -> None:
        super().__init__("interrupted; finished shards stay, the same command goes on from here")
        self.exit_code = 128 + number


@dataclass(frozen=True)
class Summary:
    """The end of a run: sums over all shards of the output, and what this start added."""

    output: str
    totals: Totals
    made_shards: int
    made_images: int
    adopted_shards: int
    seconds: float
    rates: Rates | None
    report: str
    tokens: str = ""


def open_store(config: SynthesizeConfig) -> Store:
    """The output's store with the config's options."""
    own = config.storage
    return Store(config.output.uri, with_sse(own.options, own.sse), own.unconditional, own.attempts, own.max_backoff)


def settle(config: SynthesizeConfig, store: Store) -> tuple[Run, dict[str, str]]:
    """Checks table, models, recipes and output, and computes plan and fingerprint; writes nothing, starts no Ray.

    Returns:
        The run, and the text of each recipe that it may use.
    """
    table = open_table(config.prompts)
    painter = resolve_model(config.generate.model, allow_unsafe=config.unsafe_painter)
    mends = reads_pictures(config.generate, painter.path)
    redacted = redaction(config)
    columns = redacted.choose(table.schema, choose_columns(table.schema, config.prompts, pictures=mends))
    recipes = recipe_texts(config, "recipe" in columns.honoured, recipe_names())
    models = ModelHashes(
        expand=_language_model(config),
        expand_lora=resolve_model(lora, allow_unsafe=None, adapter=True).sha256
        if (lora := config.expand and config.expand.lora)
        else None,
        generate=painter.sha256,
        select=resolve_model(config.select.model, allow_unsafe=config.allow_unsafe_models).sha256
        if config.selects
        else None,
        parts=part_hashes(config.generate, allow_unsafe=config.unsafe_painter),
    )
    checks = {"redact_salt": redacted.salt_check()}
    sealed = encryption_settings(config)
    if sealed is not None:
        checks["encryption_key"] = sealed.check([*(field.name for field in OUTPUT_FIELDS), *columns.carried])
    return describe_run(store, config, table, columns, models, recipes, checks), recipes


def _language_model(config: SynthesizeConfig) -> str | None:
    """What stands for the language model in the fingerprint: its hash, or the name that an endpoint serves."""
    expand = config.expand
    if expand is None:
        return None
    if expand.engine == "openai":
        return f"{SERVED}{expand.model}"
    return resolve_model(expand.model, allow_unsafe=config.allow_unsafe_models).sha256


def synthesize(
    config: SynthesizeConfig,
    *,
    address: str | None = None,
    quiet: bool = False,
    debug: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Summary:
    """Makes the dataset, or what is missing of it.

    Args:
        address: Ray cluster; None takes ``RAY_ADDRESS`` or starts a local one.
        quiet: no progress.
        debug: Ray's and the workers' logs reach the terminal.
        say: takes the run's few remarks, one sentence each.

    Raises:
        UserError, JobError: see `actors.errors`.
        Interrupted: a signal ended the run.
    """
    begun = time.monotonic()
    store = open_store(config)
    run, recipes = settle(config, store)
    logs.bind(run=run_name(run.fingerprint))
    done = committed_shards(store)
    pending = [shard for shard in range(run.plan.shards) if shard not in done]
    trace_settings(config.trace, run.fingerprint)  # what is not installed is told before any work
    progress = RunProgress(run.plan.shards - len(pending), run.plan.shards, quiet=quiet)
    arrived = Arrived()
    if pending:
        signer = signer_settings(config)
        if signer is not None:
            ImageSigner(signer)  # a trial signature: a wrong key is told before any work
        store.probe()
        run = claim(store, run)
        with announced(store) as others:
            if others:
                say(f"{others} other run(s) work on this output too: that is safe, each shard is committed once")
            with connected(address, config.cluster, debug) as where, signals():
                say(f"{len(pending)} of {run.plan.shards} shards to make on {where}")
                config, fell_back = without_gpus(config)
                if fell_back:
                    say("the cluster has no GPU: the same config runs on CPUs")
                short = missing_resources(config)
                if short:
                    say(f"the cluster is too small for one actor of each stage as it stands ({short}); waiting")
                board = Board()
                with (
                    progress,
                    RunWatch(config, run_name(run.fingerprint), run.plan.shards, len(done), board) as watch,
                ):
                    arrived = consume(config, run, pending, recipes, store, progress, board, watch)
    else:
        say(f"nothing to do: all {run.plan.shards} shards are committed")
    return _finish(config, store, run, arrived, bool(pending), time.monotonic() - begun)


def _finish(
    config: SynthesizeConfig, store: Store, run: Run, arrived: Arrived, worked: bool, seconds: float
) -> Summary:
    """Counts all records and describes the dataset; raises `JobError` where something is missing."""
    totals = account(each_record(store, range(run.plan.shards)), run.plan.shards, run.plan.table.rows)
    if worked or not is_described(store):
        describe_output(store, config.output.card, totals)
    if logs.settings().json:
        # Beside the summary for people, which goes to standard output.
        told = {name: getattr(totals, name) for name in ("planned", "committed", "rejected", "images", "bytes")}
        logs.say("info", "finished", **told, shards=totals.shards, made_shards=arrived.shards, seconds=seconds)
    return Summary(
        output=store.public(),
        totals=totals,
        made_shards=arrived.made,
        made_images=arrived.images,
        adopted_shards=arrived.adopted,
        seconds=seconds,
        rates=read_rates(store),
        report=store.public("report.html"),
        tokens=_tokens(totals, config),
    )


def _tokens(totals: Totals, config: SynthesizeConfig) -> str:
    """Tokens read and written by an endpoint, and what they cost at the config's prices; "" with other engines.

    Counted from the commit records: what a lost actor had asked for is charged too, and is not in it.
    """
    if config.expand is None or config.expand.engine != "openai":
        return ""
    text = f"{totals.prompt_tokens} in, {totals.tokens} out"
    own = config.expand.openai
    if own.price_in is not None and own.price_out is not None:
        cost = (totals.prompt_tokens * own.price_in + totals.tokens * own.price_out) / 1e6
        text += f", {cost:.4f} at {own.price_in:g} and {own.price_out:g} a million"
    return text


@contextmanager
def signals() -> Iterator[None]:
    """Raises `Interrupted` in the main thread on SIGINT and SIGTERM while the block runs.

    Inside a connection: Ray installs handlers of its own when it connects.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        raise Interrupted(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
