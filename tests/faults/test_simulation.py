"""A thousand seeds of the shard protocol keep every promise; a protocol that is broken on purpose is found out.

``PROMPTMILL_SIMULATION_SEEDS=N`` plays N seeds in place of 1000, ``PROMPTMILL_SIMULATION_FIRST=K`` begins at seed K.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commit import Committed, ShardCommitter, ShardResult, record_name
from pipeline.formats import parquet
from pipeline.run_record import RUN, Run
from pipeline.run_record import encode_record as encode_run
from pipeline.storage import Store
from pipeline.storage_errors import is_taken
from tests.faults.simulate import main, play
from tests.faults.simulated_store import FAULTS
from tests.faults.simulation import Protocol, simulate

SEEDS = int(os.environ.get("PROMPTMILL_SIMULATION_SEEDS", "1000"))
FIRST = int(os.environ.get("PROMPTMILL_SIMULATION_FIRST", "0"))
ENOUGH = 400
"""Seeds within which a broken protocol must be found; most of those below take a handful."""


def test_no_seed_loses_or_doubles_a_row_and_every_fault_is_met() -> None:
    outcomes = play(range(FIRST, FIRST + SEEDS), processes=2)
    faults: Counter[str] = Counter()
    for outcome in outcomes:
        faults += outcome.faults
        assert outcome.problems == [], f"python -m tests.faults.simulate --first {outcome.seed} --trace"
        assert (outcome.lost, outcome.doubled) == (0, 0)
    assert len(outcomes) == SEEDS
    if SEEDS >= 100:
        assert set(FAULTS) == set(faults), "a fault was never injected"


def test_one_seed_is_one_history() -> None:
    seeds = range(FIRST, FIRST + 20)
    first = [simulate(seed) for seed in seeds]
    again = [simulate(seed) for seed in reversed(seeds)]
    assert [outcome.trace for outcome in first] == [outcome.trace for outcome in reversed(again)]
    assert len({outcome.digest for outcome in first}) == len(seeds)


def test_the_command_prints_scenarios_faults_and_losses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "5", "--first", "40"]) == 0
    printed = capsys.readouterr().out
    assert "scenarios        5 (seeds 40..44)" in printed
    assert "rows lost        0" in printed
    assert "rows doubled     0" in printed


class RecordFirst(ShardCommitter):
    """The record goes before the object that it describes."""

    def commit(self, result: ShardResult) -> Committed:
        name = self._format.data_name(result.shard)
        header = self._header(result)
        if result.rejects.num_rows:
            header["rejects"] = self._put_rejects(result)
        parts = []
        for part in self._format.parts(result.shard, result.rows, result.images):
            self._store.create(part.name, part.data)
            parts.append({"name": part.name, "size": len(part.data), "sha256": hashlib.sha256(part.data).hexdigest()})
        header["parts"] = parts
        sink = pa.BufferOutputStream()
        self._format.build(sink, result.rows, result.images, header, parts)
        data = sink.getvalue().to_pybytes()
        entry = {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        record = self._put_record({**header, "data": entry})
        self._store.create(name, data)
        return Committed(record, adopted=False)


class RejectsLast(ShardCommitter):
    """The rejects go after the data and the record that name them."""

    def _put_rejects(self, result: ShardResult) -> dict[str, Any]:
        store, later = self._store, _Later(self._store)
        self._store, self._later = later, later  # type: ignore[assignment]
        entry = super()._put_rejects(result)
        self._store = store
        return entry

    def commit(self, result: ShardResult) -> Committed:
        self._later: _Later | None = None
        committed = super().commit(result)
        if self._later is not None:
            self._store.create(*self._later.kept)
        return committed


class _Later:
    def __init__(self, store: Store) -> None:
        self.store = store

    def create(self, name: str, data: bytes) -> bool:
        self.kept = (name, data)
        return True


class PartsOfOurOwn(ShardCommitter):
    """Of an object that is there, the rejects and counts are believed to be ours."""

    def commit(self, result: ShardResult) -> Committed:
        self._mine = result
        return super().commit(result)

    def _adopt(self, shard: int, name: str, made: dict[str, Any] | None) -> Any:
        header, entry, ours = super()._adopt(shard, name, made)
        if made is not None:
            own = self._header(self._mine)
            header = {**header, "committed": own["committed"], "rejected": own["rejected"]}
            header["rejects"] = self._put_rejects(self._mine) if self._mine.rejects.num_rows else None
        return header, entry, ours


class Overwrites(Store):
    """Data is put whatever is there."""

    def create(self, name: str, source: bytes | Path) -> bool:
        if not name.startswith("data/"):
            return super().create(name, source)
        self.request(lambda: self._put(name, source, {}), name, "write")
        return True


class TakenIsVictory(Store):
    """412 is read as "my own put had gone through": the record then tells of our own bytes."""

    def create(self, name: str, source: bytes | Path) -> bool:
        return super().create(name, source) or name.startswith("data/")


class UnknownIsDone(Store):
    """An answer that never came is taken for a yes."""

    def create(self, name: str, source: bytes | Path) -> bool:
        try:
            self._put(name, source, {"mode": "create"})
        except Exception as error:  # noqa: BLE001
            return not is_taken(error)
        return True


class OverwritesRecords(Store):
    """A record is put whatever is there."""

    def create(self, name: str, source: bytes | Path) -> bool:
        if not name.startswith("_run/shards/") or isinstance(source, Path):
            return super().create(name, source)
        self.replace(name, source)
        return True


def claims_without_looking(store: Store, run: Run) -> Run:
    """The run record is put, and whoever was first is never asked for."""
    store.create(RUN, encode_run(run.record))
    return run


def data_is_enough(store: Store) -> set[int]:
    """A shard counts as done when its data is there."""
    names = [entry.name.rpartition("shard-")[2] for entry in store.list("data")]
    return {int(name[:6]) for name in names}


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (Protocol(committer=RecordFirst), "describes another object|which is not there|was changed after"),
        (Protocol(committer=RejectsLast), "which is not there|was changed after"),
        (Protocol(committer=PartsOfOurOwn), "lost|doubled|not add up|accounted"),
        (Protocol(store=Overwrites), "describes another object|was written 2 times|was changed|changed by hand"),
        (Protocol(store=TakenIsVictory), "describes another object|changed by hand"),
        (Protocol(store=UnknownIsDone), "not there|describes another|no commit record|was changed after"),
        (Protocol(store=OverwritesRecords), "was changed after|clean resume changed"),
        (Protocol(claim=claims_without_looking), "another run's fingerprint|belongs to run"),
        (Protocol(committed=data_is_enough), "no commit record|records missing"),
    ],
    ids=["record-first", "rejects-last", "own-rejects", "overwrite", "taken-is-victory", "unknown-is-done",
         "overwrite-records", "blind-claim", "data-is-enough"],
)  # fmt: skip
def test_a_broken_protocol_is_found_out(broken: Protocol, says: str) -> None:
    for seed in range(ENOUGH):
        problems = simulate(seed, broken).problems
        if problems:
            assert any(re.search(says, problem) for problem in problems), problems
            return
    pytest.fail(f"{ENOUGH} seeds did not notice")


def test_a_header_that_is_read_without_retry_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the simulation found in this project: a shard's adoption ended its run at the first cut connection."""

    def footer(store: Store, name: str) -> Any:
        with store.fs.open(store.path(name), "rb") as stream:
            return pq.ParquetFile(stream).schema_arrow

    monkeypatch.setattr(parquet, "_footer", footer)
    assert any("ends with" in problem for seed in range(ENOUGH) for problem in simulate(seed).problems)


def test_record_names_are_what_the_simulation_looks_for() -> None:
    assert record_name(3) == "_run/shards/000003.json"
