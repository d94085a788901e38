"""The shard protocol under a seed: drivers, workers, zombies and a store, and what must hold when all is over.

The product's own code runs: `describe_run` and `claim`, `Store` with its retries and its sorting of errors, the probe,
`ShardCommitter`, `committed_shards`, `each_record` and `account`. What is simulated is the world around it: the
store's far side, the clock, the deaths of processes, and Ray, which here hands shards to workers, takes a silent one
for dead, and gives its shard to another while the first goes on.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import io
import json
import pickle
import random
import tarfile
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import rich.style  # noqa: F401 - takes a number from `random` as it is imported: not within a simulation

from actors.errors import JobError, UserError
from pipeline import run_record
from pipeline.commit import ShardCommitter, committed_shards, each_record
from pipeline.formats import FORMATS, ShardFormat
from pipeline.run_record import RUN, Run, claim, describe_run
from pipeline.storage import Store
from pipeline.summary import Totals, account
from tests.faults.simulated_job import SHARD_ROWS, Job, job, made_by
from tests.faults.simulated_store import Bucket, Thing, connected_to, virtual_sleep
from tests.faults.virtual_time import Actor, Crash, Stuck, World

URI = "sim://bucket/out"
_ROOT = "bucket/out/"
_STARTS = 6


@dataclass(frozen=True)
class Protocol:
    """The parts under test. A test that breaks one hands its own in."""

    committer: type[ShardCommitter] = ShardCommitter
    store: type[Store] = Store
    claim: Callable[[Store, Run], Run] = claim
    committed: Callable[[Store], set[int]] = committed_shards


@dataclass
class Outcome:
    """What became of one seed. ``problems`` is empty where every promise was kept."""

    seed: int
    shards: int = 0
    starts: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    problems: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Of everything that happened, in order: equal for two runs of one seed."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


def simulate(seed: int, protocol: Protocol | None = None) -> Outcome:
    """Plays one seed to its end and checks the promises."""
    world = World(seed)
    outcome = Outcome(seed, trace=world.trace)
    with _one_source_of_chance(seed), _nothing_twice(), connected_to(_weather(world)) as bucket:
        scene = _Scene(world, bucket, protocol or Protocol())
        outcome.shards = scene.shards
        try:
            scene.play()
            scene.check(outcome)
        except Stuck as error:
            outcome.problems.append(str(error))
        outcome.starts, outcome.faults = scene.starts, Counter(world.counts)
    return outcome


def _weather(world: World) -> Bucket:
    draw = world.random
    return Bucket(world, fault_rate=draw.choice((0.0, 0.05, 0.15, 0.35)), multipart=draw.choice((2000, 1 << 20)))


class _Scene:
    def __init__(self, world: World, bucket: Bucket, protocol: Protocol) -> None:
        draw = world.random
        self.world, self.bucket, self.protocol = world, bucket, protocol
        self.shards = draw.randint(2, 4)
        self.format = draw.choice(("parquet", "parquet", "webdataset", "files"))
        self.jobs = [job(self.shards, self.format, config_seed) for config_seed in (0, 1)]
        self.attempts = draw.choice((2, 5, 8))
        self.width = draw.randint(1, 3)
        self.patience = draw.choice((10.0, 30.0, 90.0))  # seconds after which a driver takes a worker for dead
        self.render_seconds = draw.choice((2.0, 20.0, 60.0))
        self.mixed_hardware = draw.random() < 0.85
        self.crash_rate = draw.choice((0.0, 0.02, 0.05, 0.1))
        self.freeze_rate = draw.choice((0.0, 0.02, 0.06))
        self.starts = 0
        self.pending_starts = 0
        self.drivers: list[tuple[Actor, Job]] = []
        self.problems: list[str] = []
        world.latency = draw.choice((0.2, 2.0, 10.0))
        world.crashes_left = draw.choice((0, 2, 6, 12))

    def play(self) -> None:
        """The storm, with whatever restarts an operator does in it; then calm, zombies, and two clean resumes."""
        draw = self.world.random
        self._start_later(self.jobs[0], 0.0)
        if draw.random() < 0.6:
            self._start_later(self.jobs[0], draw.uniform(0, draw.choice((5, 90))))
        if draw.random() < 0.15:
            self._start_later(self.jobs[1], draw.uniform(0, 5))  # another config on the same output
        self.world.run(until=lambda: not self.pending_starts and all(driver.done for driver, _ in self.drivers))
        self.bucket.fault_rate, self.world.crashes_left = 0.0, 0
        self._resume()
        after_first = self._things()
        self.world.run()  # zombies wake up and late puts arrive after the dataset was finished
        settled = self._things()
        for name in self._named():
            if name not in after_first or after_first[name] != settled.get(name):
                self.problems.append(f"{name} was changed after the run had finished")
        self._resume()
        self.world.run()
        if self._things() != settled:
            self.problems.append("a clean resume changed something")

    def check(self, outcome: Outcome) -> None:
        """The promises, over the objects themselves and without the product's reading code."""
        outcome.problems += self.problems
        rows = self.shards * SHARD_ROWS
        planned, committed, rejected = 0, 0, 0
        seen: Counter[str] = Counter()
        records = {name for name in self.bucket.things if name.startswith(f"{_ROOT}_run/shards/")}
        wanted = {f"{_ROOT}_run/shards/{shard:06d}.json" for shard in range(self.shards)}
        if records != wanted:
            outcome.problems.append(
                f"records missing {sorted(wanted - records)} or too many {sorted(records - wanted)}"
            )
        for name in sorted(records & wanted):
            record = json.loads(self.bucket.things[name].data)
            if record["fingerprint"] != self._owner().fingerprint:
                outcome.problems.append(f"{name} has another run's fingerprint")
            planned, committed = planned + record["rows"], committed + record["committed"]
            rejected += record["rejected"]
            for entry in [record["data"], *record["parts"], *([record["rejects"]] if record["rejects"] else [])]:
                outcome.problems += self._describes(name, entry)
            seen.update(set(_prompt_ids(self._bytes(record["data"]), self.format)))
            if record["rejects"]:
                seen.update(_reject_ids(self._bytes(record["rejects"])))
        outcome.lost = sum(1 for row in range(rows) if f"r{row}" not in seen)
        outcome.doubled = sum(count - 1 for count in seen.values() if count > 1)
        if (planned, committed + rejected) != (rows, rows) or outcome.lost or outcome.doubled:
            outcome.problems.append(
                f"{rows} rows planned, {planned} in records: {committed} committed + {rejected} rejected; "
                f"{outcome.lost} lost, {outcome.doubled} doubled"
            )

    def _describes(self, record: str, entry: dict[str, Any]) -> Iterator[str]:
        thing = self.bucket.things.get(_ROOT + entry["name"])
        if thing is None:
            yield f"{record} names {entry['name']}, which is not there"
        elif (len(thing.data), thing.sha256) != (entry["size"], entry["sha256"]):
            yield f"{record} describes another object than {entry['name']}"
        elif thing.writes != 1:
            yield f"{entry['name']} was written {thing.writes} times"

    def _bytes(self, entry: dict[str, Any]) -> bytes:
        thing = self.bucket.things.get(_ROOT + entry["name"])
        return thing.data if thing else b""

    def _things(self) -> dict[str, tuple[str, int]]:
        return {name: (thing.sha256, thing.writes) for name, thing in self.bucket.things.items()}

    def _named(self) -> set[str]:
        """What the dataset is made of: run record, shard records, and all that they name."""
        names = {_ROOT + RUN}
        for name, thing in self.bucket.things.items():
            if name.startswith(f"{_ROOT}_run/shards/"):
                record = json.loads(thing.data)
                entries = [record["data"], *record["parts"], *([record["rejects"]] if record["rejects"] else [])]
                names |= {name, *(_ROOT + entry["name"] for entry in entries)}
        return names

    def _owner(self) -> Job:
        """The job whose run record is there."""
        there: Thing | None = self.bucket.things.get(_ROOT + RUN)
        fingerprint = json.loads(there.data)["fingerprint"] if there else None
        return next((each for each in self.jobs if each.fingerprint == fingerprint), self.jobs[0])

    def _store(self) -> Store:
        return self.protocol.store(URI, attempts=self.attempts, sleep=virtual_sleep)

    def _start_later(self, work: Job, seconds: float) -> None:
        self.pending_starts += 1
        self.world.later(seconds, partial(self._start, work))

    def _start(self, work: Job, restart: bool = True) -> Actor:
        self.pending_starts -= restart
        self.starts += 1
        driver = Actor(f"driver{self.starts}", self.crash_rate / 2, self.freeze_rate / 2)
        self.drivers.append((driver, work))
        self.world.start(driver, partial(self._operate, driver, work, restart))
        return driver

    def _operate(self, driver: Actor, work: Job, restart: bool) -> Totals | None:
        """A driver, and the operator who starts it again after it failed."""
        try:
            return self._drive(driver, work)
        except UserError as error:
            if work is self._owner() or "belongs to another run" not in str(error):
                self.problems.append(f"{driver.name} blames the user: {error}")
            return None
        except (JobError, Crash) as error:
            self.world.note(f"ends: {type(error).__name__}")
            if restart and self.starts < _STARTS:
                self._start_later(work, self.world.random.uniform(1, 120))
            if not restart:
                self.problems.append(f"a clean resume failed: {error!r}")
            raise
        except Exception as error:  # noqa: BLE001 - no other error may come out of the product
            self.problems.append(f"{driver.name} ends with {error!r}")
            return None

    def _resume(self) -> None:
        driver = self._start(self._owner(), restart=False)
        self.world.run(until=lambda: driver.done)

    def _drive(self, driver: Actor, work: Job) -> Totals:
        """What `pipeline.synthesize.synthesize` does, with workers of this simulation in Ray's place."""
        store = self._store()
        run = describe_run(store, work.config, work.table, work.columns, work.models, {})
        done = self.protocol.committed(store)
        pending = [shard for shard in range(run.plan.shards) if shard not in done]
        if pending:
            store.probe()
            run = self.protocol.claim(store, run)
            self._dispatch(driver, store, work, pending)
        totals = account(each_record(store, range(run.plan.shards)), run.plan.shards, run.plan.table.rows)
        if totals.planned != totals.committed + totals.rejected:
            self.problems.append(f"{driver.name} sums up {totals}")
        return totals

    def _dispatch(self, driver: Actor, store: Store, work: Job, pending: Iterable[int]) -> None:
        world, draw = self.world, self.world.random
        todo, busy = deque(pending), dict[Actor, tuple[int, float]]()
        patience = dict.fromkeys(todo, self.patience)
        number = 0
        try:
            while todo or busy:
                while todo and len(busy) < self.width:
                    shard, number = todo.popleft(), number + 1
                    worker = Actor(f"{driver.name}.{number}", self.crash_rate, self.freeze_rate)
                    hardware = draw.randint(0, 1) if self.mixed_hardware else 0
                    world.start(worker, partial(self._work, pickle.dumps(store), work, shard, hardware))
                    busy[worker] = (shard, world.clock)
                world.step(2.0)
                for worker, (shard, since) in list(busy.items()):
                    if worker.done and worker.error is not None:
                        raise worker.error
                    if worker.done and not worker.dead:
                        del busy[worker]
                    elif worker.done or world.clock - since > patience[shard]:
                        del busy[worker]  # dead, or taken for dead: then it goes on as a zombie
                        todo.append(shard)
                        patience[shard] *= 2
        finally:
            for worker in busy:
                if draw.random() < 0.5:
                    world.kill(worker)  # the others outlive their driver

    def _work(self, store: bytes, work: Job, shard: int, hardware: int) -> dict[str, Any]:
        """What `pipeline.stages.GenerateStage` does with one shard."""
        committer = self.protocol.committer(pickle.loads(store), self.format, work.fingerprint)
        record = committer.adopt(shard)
        if record is None:
            self.world.step(self.render_seconds)
            record = committer.commit(made_by(hardware, shard)).record
        return record


@contextmanager
def _one_source_of_chance(seed: int) -> Iterator[None]:
    """Jitter, names of probes and the order of concurrent reads follow the seed while the block runs."""
    before, names, threads = random.getstate(), uuid.uuid4, concurrent.futures.ThreadPoolExecutor
    random.seed(seed)
    uuid.uuid4 = lambda: uuid.UUID(int=random.getrandbits(128), version=4)
    concurrent.futures.ThreadPoolExecutor = _InTurn  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        random.setstate(before)
        uuid.uuid4 = names
        concurrent.futures.ThreadPoolExecutor = threads  # type: ignore[misc]


@contextmanager
def _nothing_twice() -> Iterator[None]:
    """Versions of libraries are looked up, and equal shards built, once for all seeds: that is most of the time."""
    before, look_up = dict(FORMATS), run_record._version
    run_record._version = _version
    FORMATS.update({kind: _remembering(each) for kind, each in before.items()})
    try:
        yield
    finally:
        run_record._version = look_up
        FORMATS.update(before)


_version = functools.cache(run_record._version)
_built: dict[tuple[str, str, tuple[bytes, ...]], bytes] = {}


@functools.cache
def _remembering(kind: type[ShardFormat]) -> type[ShardFormat]:
    class Remembering(kind):  # type: ignore[valid-type,misc]
        def build(self, sink: pa.NativeFile, rows: Any, images: Any, header: dict[str, Any], parts: Any) -> None:
            key = (self.suffix, json.dumps(header), tuple(images.read(row) for row in range(rows.num_rows)))
            if key not in _built:
                made = pa.BufferOutputStream()
                super().build(made, rows, images, header, parts)
                _built[key] = made.getvalue().to_pybytes()
            sink.write(_built[key])

    return Remembering


class _InTurn:
    """A pool whose threads go one after the other: greenlets know no others."""

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> _InTurn:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Callable[[Any], Any], values: Iterable[Any]) -> list[Any]:
        return [function(value) for value in values]

    def submit(self, function: Callable[..., Any], *values: Any) -> concurrent.futures.Future[Any]:
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        done.set_result(function(*values))
        return done


_read: dict[bytes, list[str]] = {}


def _prompt_ids(data: bytes, kind: str) -> list[str]:
    if data not in _read:
        if not data:
            _read[data] = []
        elif kind == "webdataset":
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                members = [tar.extractfile(m) for m in tar if m.name.endswith(".json")]
                _read[data] = [json.loads(m.read())["prompt_id"] for m in members if m]
        else:
            _read[data] = pq.read_table(io.BytesIO(data), columns=["prompt_id"])["prompt_id"].to_pylist()
    return _read[data]


def _reject_ids(data: bytes) -> list[str]:
    if data not in _read:
        _read[data] = pq.read_table(io.BytesIO(data), columns=["id"])["id"].to_pylist() if data else []
    return _read[data]
