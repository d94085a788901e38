"""The two stages as Ray Data calls them: a block (one shard) in, a block out; models are loaded once an actor.

Blocks go through whole (``batch_size=None``), so what an actor computes together never depends on how Ray cut the data.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from actors.content_credentials import CredentialSettings, ImageSigner
from actors.contracts import TextJob
from actors.device import use_resources
from actors.errors import BrokenEngine, JobError
from actors.expander import ExpanderSettings, build_expander
from actors.generator import Generator
from actors.images import ImageEncoder
from actors.loading import loading
from actors.own_thread import OwnThread
from actors.render_settings import RenderSettings, build_backend
from actors.scorer import Scorer, ScorerSettings
from actors.seeds import derive_seed
from pipeline import columns as c
from pipeline import instruments, logs, traces
from pipeline.assemble import image_jobs, output_rows, refuse, reject_rows, split_failures
from pipeline.board import Events
from pipeline.busy import Busy, BusyBackend
from pipeline.commit import ShardCommitter, ShardResult
from pipeline.described import described
from pipeline.draining import Draining, Inside
from pipeline.exits import leave_process
from pipeline.formats.base import ShardImages
from pipeline.id_notes import id_note
from pipeline.outcome import counts_of, outcome
from pipeline.parquet_encryption import ParquetEncryption
from pipeline.picture_columns import PictureColumns
from pipeline.redact import Redaction
from pipeline.select import select
from pipeline.spool import ImageSpool
from pipeline.storage import Store
from pipeline.storage_errors import describe
from pipeline.timings import put_timing
from pipeline.watching import Watching, of_shard


class ExpandStage:
    """The LLM actor: writes ``variants`` descriptions for each row of a shard."""

    def __init__(
        self,
        settings: ExpanderSettings,
        variants: int,
        run_seed: int,
        board: Events,
        first_variant: int = 0,
        watching: Watching | None = None,
    ) -> None:
        if watching is not None:
            watching.begin("expand")
        self._variants, self._seed, self._board, self._first = variants, run_seed, board, first_variant
        board.event("expand", "loading")
        started = time.monotonic()
        with loading():
            self._expander = build_expander(settings)
        self._busy = Busy("expand")
        self._draining = Draining("expand")
        board.event("expand", "ready")
        logs.say("info", "language model loaded", seconds=time.monotonic() - started)

    def __call__(self, block: pa.Table) -> pa.Table:
        """A block with one row for each (prompt row, variant); rejected rows stay single."""
        with of_shard(block[c.SHARD][0].as_py()), self._draining.shard():
            return self._expand(block)

    def _expand(self, block: pa.Table) -> pa.Table:
        started = time.monotonic()
        self._board.event("expand", "start")
        rows, variants, jobs = [], [], []
        values = block.select([c.PROMPT, c.RECIPE, c.EMPHASIS, c.REASON]).to_pylist()
        for row, value in enumerate(values):
            if value[c.REASON] is not None:
                rows.append(row)
                variants.append(0)
                continue
            for variant in range(self._first, self._first + self._variants):
                prompt, recipe, emphasis = value[c.PROMPT], value[c.RECIPE], value[c.EMPHASIS] or ""
                # The seed follows the words, not the row: identical jobs give identical text and run once.
                seed = derive_seed(self._seed, "text", prompt, recipe, variant)
                rows.append(row)
                variants.append(variant)
                jobs.append(TextJob(prompt, recipe, variant, seed, emphasis))
        try:
            with self._busy.working(), traces.span("expand", rows=len(values), descriptions=len(jobs)):
                made = iter(self._expander.expand(jobs))
        except BrokenEngine as error:
            leave_process("expand", error)
        descriptions = [None if values[row][c.REASON] is not None else next(made) for row in rows]
        for row, variant, text in zip(rows, variants, descriptions, strict=True):
            if text is not None:
                told = {"prompt": values[row][c.PROMPT], "description": text.text, "status": text.status}
                logs.words("described", row=row, variant=variant, **told)
        self._board.event("expand", "done")
        seconds = time.monotonic() - started
        instruments.STAGE_SECONDS.observe(seconds, stage="expand")
        logs.say("info", "shard described", rows=len(values), descriptions=len(jobs), seconds=seconds)
        return described(block, rows, variants, descriptions, seconds)


@dataclass(frozen=True)
class GenerateSettings:
    """All that a generator actor needs; picklable."""

    render: RenderSettings
    encoding: Literal["png", "jpeg", "webp"]
    quality: int
    batch_rows: int
    run_seed: int
    read: tuple[str, ...]
    carried: tuple[str, ...]
    store: Store
    output_format: str
    fingerprint: str
    pictures: PictureColumns | None = None
    candidates: int = 1
    select: ScorerSettings | None = None
    signer: CredentialSettings | None = None
    encryption: ParquetEncryption | None = None
    redaction: Redaction | None = None
    prompt: str = "prompt"


class GenerateStage:
    """The image actor: renders a shard, writes and commits it, and returns its outcome; images never leave it.

    Two shards may be inside at once (threads): one renders while the other is written and uploaded.
    """

    def __init__(self, settings: GenerateSettings, board: Events, watching: Watching | None = None) -> None:
        self._settings, self._board = settings, board
        if watching is not None:
            watching.begin("generate")
        board.event("generate", "loading")
        started = time.monotonic()
        signer = ImageSigner(settings.signer) if settings.signer else None
        encoder = ImageEncoder(settings.encoding, settings.quality, signer=signer)
        self._thread = OwnThread()
        with loading():
            backend = self._thread(build_backend, settings.render)
            device = use_resources(settings.render.cpus, settings.render.gpus)
            self._scorer = self._thread(Scorer, settings.select, device) if settings.select else None
        self._generator = Generator(
            BusyBackend(backend, Busy("generate"), self._thread),
            encoder,
            settings.batch_rows,
            max(1, round(settings.render.cpus)),
        )
        self._committer = ShardCommitter(
            settings.store, settings.output_format, settings.fingerprint, settings.encryption
        )
        self._draining = Draining("generate")
        board.event("generate", "ready")
        logs.say("info", "image model loaded", seconds=time.monotonic() - started)

    def __call__(self, block: pa.Table) -> pa.Table:
        """One row of `pipeline.outcome.OUTCOME_SCHEMA` for the block's shard."""
        with of_shard(block[c.SHARD][0].as_py()), self._draining.shard() as inside:
            return self._generate(block, inside)

    def _generate(self, block: pa.Table, inside: Inside) -> pa.Table:
        self._board.event("generate", "start")
        try:
            made = self._make(block, inside)
        except BrokenEngine as error:
            leave_process("generate", error)
        except OSError as error:
            # The scratch files' disk: the store's own errors are sentences already.
            raise JobError(f"cannot write shard {block[c.SHARD][0].as_py()}: {describe(error)}") from error
        self._board.event("generate", "done")
        return made

    def _make(self, block: pa.Table, inside: Inside) -> pa.Table:
        settings, started = self._settings, time.monotonic()
        shard = block[c.SHARD][0].as_py()
        record = self._committer.adopt(shard)
        if record is not None:
            logs.say("info", "shard was finished already")
            return outcome(record, adopted=True)
        given = None
        if settings.pictures is not None:
            given, errors = settings.pictures.read(block)
            block = refuse(block, errors)
        sheet = image_jobs(block, settings.run_seed, given, settings.candidates)
        with settings.store.scratch() as scratch, ImageSpool(scratch) as spool:
            inside.counts(len(sheet.jobs), lambda: len(spool.images) + len(spool.errors))
            with traces.span("render", images=len(sheet.jobs)):
                self._generator.render(sheet.jobs, spool)
            rendered = time.monotonic()
            similarity: dict[int, float] = {}
            if self._scorer is None:
                block, kept = split_failures(block, sheet, spool.errors)
            else:
                chosen = self._thread(select, self._scorer, block, sheet, spool.errors, spool.read)
                block, kept, similarity = chosen.block, chosen.kept, chosen.similarity
            rows = output_rows(block, sheet, kept, spool.images, settings.carried, similarity)
            rejects = reject_rows(block, settings.read)
            if settings.redaction is not None:
                rows = settings.redaction.output(rows)
                rejects = settings.redaction.rejects(rejects, settings.prompt)
            images = ShardImages(
                lambda row: spool.read(kept[row]),
                settings.encoding.replace("jpeg", "jpg"),
                sum(spool.images[job].length for job in kept),
            )
            planned = len(set(block[c.ROW].to_pylist()))
            result = ShardResult(shard, planned, rows, images, rejects, counts_of(block))
            finished = time.monotonic()
            committed = self._committer.commit(result)
        done = time.monotonic()
        _tell_rejects(block)
        logs.say(
            "info",
            "shard adopted" if committed.adopted else "shard committed",
            **{name: committed.record[name] for name in ("rows", "images", "rejected")},
            seconds=done - started,
        )
        began = block[c.BEGAN][0].as_py() if c.BEGAN in block.column_names else None
        traces.finish_shard(shard, began, rows=planned, images=rows.num_rows, rejected=committed.record["rejected"])
        instruments.COMMIT_SECONDS.observe(done - finished)
        instruments.STAGE_SECONDS.observe(rendered - started, stage="render")
        instruments.STAGE_SECONDS.observe(done - rendered, stage="write")
        put_timing(
            settings.store,
            shard,
            id_note(rows["id"].to_pylist()) if not committed.adopted else "",
            rows=planned,
            images=rows.num_rows,
            tokens=sum(block[c.TOKENS].to_pylist()),
            expand_seconds=block[c.EXPAND_SECONDS][0].as_py(),
            render_seconds=rendered - started,
            write_seconds=done - rendered,
        )
        return outcome(committed.record, committed.adopted)


def _tell_rejects(block: pa.Table) -> None:
    for row in block.select([c.ROW, c.PROMPT, c.STAGE, c.REASON]).to_pylist():
        if row[c.REASON] is not None:
            told = {"prompt": row[c.PROMPT], "stage": row[c.STAGE], "reason": row[c.REASON]}
            logs.words("rejected", row=row[c.ROW], **told)
