"""A whole output against its records: every shard, the plan, what no record names, and ids across shards.

Nothing is written, except by a repair, which moves what is damaged under ``_run/quarantine`` and re-opens just those
shards: the same command then makes the same bytes again (`pipeline.quarantine`, `pipeline.check_shard` say how).

Memory is bounded by the number of shards and of findings: images are looked at one at a time in each worker, ids are
counted on disk (`pipeline.id_census`), and the listings of image files are taken a shard at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from actors.errors import JobError, UserError
from pipeline.check_shard import ShardChecker
from pipeline.commit import NewerFormat, ShardCommitter, committed_shards, decode_record, record_name
from pipeline.count_progress import CountProgress
from pipeline.drivers import noted
from pipeline.finding import Finding, ShardCheck
from pipeline.formats import FORMATS
from pipeline.id_census import IdCensus
from pipeline.parquet_keys import KEY, has_keys
from pipeline.quarantine import quarantine, reopen
from pipeline.record_shape import objects_of, shard_of
from pipeline.run_record import RUN
from pipeline.storage import Store

REPORT_VERSION = 1
_SHOWN_DOUBLES = 100
_TRIED = 8
"""Shards that may be damaged before it is given up to find out by them whether the key is right."""


@dataclass(frozen=True)
class Outline:
    """What a sound run record says that an output must hold."""

    fingerprint: str
    output_format: str
    rows: int
    shard_rows: int
    encrypted: bool = False

    @property
    def shards(self) -> int:
        """Shards of the plan."""
        return -(-self.rows // self.shard_rows)

    def planned(self, shard: int) -> int | None:
        """Rows that the plan gives a shard; None where it has no such shard."""
        if not 0 <= shard < self.shards:
            return None
        return min(self.shard_rows, self.rows - shard * self.shard_rows)


@dataclass
class Report:
    """What a verification found, and what a repair did."""

    output: str
    deep: bool
    opened: bool = True
    outline: Outline | None = None
    recorded: int = 0
    sound_shards: int = 0
    planned: int = 0
    committed: int = 0
    rejected: int = 0
    images: int = 0
    objects: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    reopened: list[int] = field(default_factory=list)
    rewritten: list[int] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing at all was found."""
        return not self.findings

    def document(self) -> dict[str, Any]:
        """The report as JSON types; its keys stay."""
        own = self.outline
        return {
            "format": REPORT_VERSION,
            "output": self.output,
            "fingerprint": own.fingerprint if own else None,
            "deep": self.deep,
            "opened": self.opened,
            "sound": self.sound,
            "shards": {"planned": own.shards if own else None, "recorded": self.recorded, "sound": self.sound_shards},
            "rows": {
                "table": own.rows if own else None,
                "planned": self.planned,
                "committed": self.committed,
                "rejected": self.rejected,
            },
            "images": self.images,
            "objects": self.objects,
            "bytes": self.bytes,
            "findings": [asdict(finding) for finding in self.findings],
            "repair": {
                "quarantined": self.quarantined,
                "reopened_shards": self.reopened,
                "rewritten_records": self.rewritten,
            },
        }


def verify(store: Store, *, deep: bool = False, repair: bool = False, workers: int = 8, quiet: bool = False) -> Report:
    """Checks an output.

    Args:
        deep: also decode every image and read its marks.
        repair: quarantine what is damaged and re-open its shards.
        workers: shards that are looked at side by side.
        quiet: no progress.

    Raises:
        UserError: no output, one of a later format version, or a repair while a run is at work.
        JobError: the store failed for as long as it was tried.
    """
    report = Report(store.public(), deep)
    fault = _read_outline(store, report)
    if fault is not None:
        report.findings.append(Finding("run_record", None, RUN, fault, "remake"))
        if repair:
            _repair(store, report, {}, [])
        return report
    assert report.outline is not None
    own = report.outline
    recorded = committed_shards(store)
    report.recorded = len(recorded)
    report.opened = not own.encrypted or _opens(store, own, recorded)
    if deep and not report.opened:
        raise UserError(f"the rows of '{store.public()}' are encrypted and their key is not here: --deep needs {KEY}")
    shards = [*range(own.shards), *sorted(shard for shard in recorded if shard >= own.shards)]
    checks: dict[int, ShardCheck] = {}
    with IdCensus() as census, CountProgress("shards", len(shards), quiet=quiet) as progress:
        checker = ShardChecker(
            store, own.output_format, own.fingerprint, deep=deep, opens=report.opened, take_id=census.take
        )
        for check, stray in _checked(store, checker, own, shards, workers):
            checks[check.shard] = check
            _add(report, check, stray)
            progress.add(f"{report.bytes / 1e6:.0f} MB, {len(report.findings)} findings")
        doubled = _doubled_ids(report, census, checks)
    _find_strays(store, report, checks)
    if repair and not report.sound:
        _repair(store, report, checks, doubled)
    return report


def _opens(store: Store, own: Outline, recorded: set[int]) -> bool:
    """Whether the keys that are here open an encrypted output."""
    form = FORMATS[own.output_format]()
    for shard in sorted(recorded)[:_TRIED]:
        try:
            if form.read_header(store, form.data_name(shard)) is not None:
                return True
        except UserError:
            return False
    return has_keys()


def read_outline(store: Store) -> Outline:
    """What the run record says that the output must hold; raises `UserError` where there is none that holds."""
    report = Report(store.public(), deep=False)
    fault = _read_outline(store, report)
    if fault is not None or report.outline is None:
        raise UserError(f"'{store.public(RUN)}' is damaged ({fault}); promptmill verify --repair mends that")
    return report.outline


def _read_outline(store: Store, report: Report) -> str | None:
    """Fills in the outline, or returns why the run record does not hold."""
    raw = store.read(RUN)
    if raw is None:
        raise UserError(f"'{store.public()}' is no output of promptmill: it has no {RUN}")
    try:
        run = decode_record(raw, store.public(RUN))
        identity = run["identity"]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        outline = Outline(
            run["fingerprint"],
            identity["config"]["output"]["format"],
            int(identity["table"]["rows"]),
            int(identity["config"]["shards"]["rows"]),
            identity["config"]["output"].get("encryption") is not None,
        )
    except NewerFormat:
        raise
    except (UserError, KeyError, TypeError, ValueError):
        return "it is no run record; moved away, the same command writes it again"
    if digest != run["fingerprint"] or outline.output_format not in FORMATS or outline.shard_rows < 1:
        return "what it says is not what its fingerprint was made from; moved away, the same command writes it again"
    report.outline = outline
    return None


def _checked(
    store: Store, checker: ShardChecker, own: Outline, shards: list[int], workers: int
) -> Iterator[tuple[ShardCheck, list[str]]]:
    """Each shard's check and the image files that its record does not name, a bounded number of shards ahead."""

    def one(shard: int) -> tuple[ShardCheck, list[str]]:
        check = checker.check(shard, own.planned(shard))
        if own.output_format != "files" or check.record is None:
            return check, []
        named = {entry["name"] for entry in objects_of(check.record)}
        folder = check.record["data"]["name"].rpartition("/")[0]
        return check, [entry.name for entry in store.list(folder) if entry.name not in named]

    waiting: deque[Future[tuple[ShardCheck, list[str]]]] = deque()
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="promptmill-verify") as pool:
        try:
            for shard in shards:
                waiting.append(pool.submit(one, shard))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _add(report: Report, check: ShardCheck, stray: list[str]) -> None:
    report.findings += check.findings
    report.findings += [_orphan(name, check.shard) for name in stray]
    report.objects += check.objects
    report.bytes += check.bytes
    if check.record is not None:
        report.planned += check.record["rows"]
        report.committed += check.record["committed"]
        report.rejected += check.record["rejected"]
        report.images += check.record["images"]
        report.sound_shards += not check.findings
        # Only the names of what lies in the shared directories are kept: parts would cost memory by the image.
        check.record = {**check.record, "parts": []}


def _doubled_ids(report: Report, census: IdCensus, checks: dict[int, ShardCheck]) -> list[int]:
    """Reports rows whose ids came before; returns the shards that hold one."""
    shards: set[int] = set()
    for count, one in enumerate(sorted(census.doubled()), start=1):
        shards |= {one.shard, one.first_shard}
        if count <= _SHOWN_DOUBLES:
            detail = f"row {one.row} has the id of row {one.first_row} of shard {one.first_shard}"
            report.findings.append(Finding("doubled_id", one.shard, record_name(one.shard), detail, "remake"))
    return sorted(shard for shard in shards if shard in checks)


def _find_strays(store: Store, report: Report, checks: dict[int, ShardCheck]) -> None:
    """Objects in the dataset's directories that no record names."""
    assert report.outline is not None
    kind = report.outline.output_format
    own_folder = "data/shard-" if kind == "files" else None
    for name in store.directories("data"):
        if own_folder is None or not name.startswith(own_folder):
            report.findings.append(Finding("orphan", None, f"{name}/", _STRANGE, "none"))
    for entry in (*store.list("data"), *store.list("rejects")):
        shard = shard_of(entry.name, kind)
        check = checks.get(shard) if shard is not None else None
        if shard is None or check is None:
            report.findings.append(Finding("orphan", None, entry.name, _STRANGE, "none"))
        elif check.record is not None and entry.name not in {one["name"] for one in objects_of(check.record)}:
            report.findings.append(_orphan(entry.name, shard))


_STRANGE = "no shard of this run has an object of this name; move it away by hand"


def _orphan(name: str, shard: int) -> Finding:
    return Finding("orphan", shard, name, "its shard's record does not name it; promptmill gc deletes it", "collect")


def _repair(store: Store, report: Report, checks: dict[int, ShardCheck], doubled: list[int]) -> None:
    """Quarantines what is damaged, writes records again, re-opens shards; says in the report what it did."""
    remake = {f.shard for f in report.findings if f.mend == "remake" and f.shard is not None} | set(doubled)
    rewrite = {f.shard for f in report.findings if f.mend == "rewrite" and f.shard is not None} - remake
    with noted(store) as notes:
        if notes.alive():
            raise UserError(
                f"{len(notes.alive())} run(s) work on '{store.public()}' now; repair it when they have ended "
                "(a note under _run/drivers is taken for a run until it is a minute old)"
            )
        if report.outline is None:
            moved = quarantine(store, RUN)
            report.quarantined += [moved] if moved else []
            return
        own = report.outline
        rejects: dict[int, list[str]] = {}
        for entry in store.list("rejects"):
            owner = shard_of(entry.name, own.output_format)
            if owner is not None:
                rejects.setdefault(owner, []).append(entry.name)
        for shard in sorted(remake):
            report.quarantined += reopen(store, own.output_format, shard, rejects.get(shard, []))
            report.reopened.append(shard)
        committer = ShardCommitter(store, own.output_format, own.fingerprint)
        for shard in sorted(rewrite):
            moved = quarantine(store, record_name(shard))
            report.quarantined += [moved] if moved else []
            if committer.adopt(shard) is None:
                raise JobError(f"the data object of shard {shard} is gone since it was looked at; verify again")
            report.rewritten.append(shard)
