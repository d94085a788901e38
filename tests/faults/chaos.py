"""Promise number one with real processes: kill anything of a real run, start it again, and the bytes are the same.

    python -m tests.faults.chaos --seeds 20 --first 0

One seed is one schedule: what is killed, and at which commit record, not at which second. A run that ended is started
again with the same command, as a nightly job would, until it ends with status 0; a head that is dead is started again.
Then all of the end state is compared: records, rows lost, rows doubled, bytes, what `verify` finds, and that
each start which was not killed itself said why it ended. Prints one line a scenario and the table at the end, and ends
with status 1 where a promise was broken. A fault waits for somebody to meet (readers live for moments); one that met
nobody to the end is told, and breaks nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage import Store
from pipeline.verify import verify
from tests import models
from tests.faults.datasets import count_losses, digests, records
from tests.faults.raylets import Raylets, kill, pick

SHARDS = 60
STALL = 150
_STARTS = 8
_PATIENCE = 420.0
_POLL = 0.003
_AFTER = 10.0
# An error of the product; not a line of progress ("promptmill: 18/60 shards, ..."), after which a run died in silence.
_SENTENCE = re.compile(r"promptmill: (?!\d+/\d+ shards)")

# Each seed begins with the kind that is its turn, so that twenty of them meet every kind.
KINDS = ("generator", "raylet", "driver", "gcs", "stopped driver", "all actors", "head raylet", "reader")


@dataclass(frozen=True)
class Fault:
    """What is killed, and at which number of commit records."""

    at: int
    kind: str


@dataclass
class Story:
    """What came of one scenario."""

    seed: int
    injected: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    starts: int = 0
    ends: list[str] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    same: bool = False
    sentences: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether every promise held."""
        return self.same and not self.lost and not self.doubled and not self.complaints

    def line(self) -> str:
        """For a person."""
        told = "same bytes" if self.same else "OTHER BYTES"
        more = "".join(f"\n    broken: {complaint}" for complaint in self.complaints)
        more += "".join(f"\n    met nobody: {fault}" for fault in self.missed)
        more += "".join(f"\n    it said: {sentence}" for sentence in self.sentences)
        return (
            f"seed {self.seed}: {', '.join(self.injected) or 'no fault'}; {self.starts} starts "
            f"({', '.join(self.ends)}); lost {self.lost}, doubled {self.doubled}, {told}; {self.seconds:.0f} s{more}"
        )


def schedule(seed: int, kinds: tuple[str, ...] = KINDS, most: int = 3) -> list[Fault]:
    """The faults of one scenario, in the order of their commit records."""
    chance = random.Random(seed)
    asked = [kinds[seed % len(kinds)]] + [chance.choice(kinds) for _ in range(chance.randint(0, most - 1))]
    places = sorted(chance.sample(range(2, SHARDS * 3 // 4), len(asked)))
    return [Fault(at, kind) for at, kind in zip(places, asked, strict=True)]


class Table:
    """The prompt table, the tiny model and the undisturbed dataset that all scenarios are compared with."""

    def __init__(self, directory: Path, model: Path | None = None) -> None:
        self._directory = directory
        self.prompts = [f"a red heart number {i}" if i % 7 else " " * i for i in range(2 * SHARDS)]
        self._table = directory / "prompts.parquet"
        pq.write_table(pa.table({"prompt": self.prompts}), self._table)
        self._model = model or models.save_gan(directory / "gan")

    def output(self, name: str) -> Path:
        """The directory of one scenario's dataset."""
        return self._directory / name

    def command(self, output: Path) -> list[str]:
        """What makes the dataset: the same words each time."""
        return [
            sys.executable, "-m", "jobs.synthesize", f"prompts.uri={self._table}", f"output.uri={output}",
            f"generate.model={self._model}", "expand=null", "shards.rows=2", "limits.max_reject_fraction=1",
            "generate.actors.min=2", "generate.actors.max=2", f"limits.stall_timeout={STALL}",
        ]  # fmt: skip

    def undisturbed(self) -> dict[str, str]:
        """The digests of a run on a local Ray that nothing befell."""
        output = self.output("calm")
        if not output.exists():
            plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
            subprocess.run(self.command(output), check=True, capture_output=True, env=plain)
        return digests(output)


class Scenario:
    """One schedule against one output."""

    def __init__(self, seed: int, table: Table, cluster: Raylets, faults: list[Fault]) -> None:
        self._table, self._cluster, self._faults = table, cluster, list(faults)
        self._output = table.output(f"seed-{seed}")
        self._chance = random.Random(f"victims {seed}")
        self._story = Story(seed)

    def play(self) -> Story:
        """Runs until a start ends with status 0, then compares."""
        story, begun = self._story, time.monotonic()
        while story.starts < _STARTS:
            self._cluster.mend()
            if self._start() == 0:
                break
        else:
            story.complaints.append(f"{_STARTS} starts were not enough")
        self._judge()
        story.seconds = time.monotonic() - begun
        return story

    def _judge(self) -> None:
        """Compares the end state, by the files themselves and by the product's own verification."""
        story = self._story
        losses = count_losses(self._output, self._table.prompts)
        story.lost, story.doubled = losses.lost, losses.doubled
        story.same = digests(self._output) == self._table.undisturbed()
        story.missed += [f"{fault.kind} at {fault.at}" for fault in self._faults]
        if records(self._output) != SHARDS:
            story.complaints.append(f"{records(self._output)} records of {SHARDS} shards")
        report = verify(Store(str(self._output)), deep=True, quiet=True)
        if report.planned != report.committed + report.rejected:
            story.complaints.append(f"{report.planned} planned, {report.committed} and {report.rejected} accounted for")
        story.complaints += [f"verify finds {finding.kind} in {finding.name}" for finding in report.findings]

    def _start(self) -> int:
        self._story.starts += 1
        with self._driver() as driver:
            murdered = False
            deadline = time.monotonic() + _PATIENCE
            while driver.poll() is None and time.monotonic() < deadline:
                made = records(self._output)
                for fault in [one for one in self._faults if made >= one.at]:
                    murdered |= self._inject(fault, driver)
                time.sleep(_POLL)
            hung = driver.poll() is None
            if hung:
                self._story.complaints.append(f"a start hung for {_PATIENCE:.0f} s")
                driver.kill()
            return self._ended(driver, murdered or hung)

    def _ended(self, driver: subprocess.Popen[str], murdered: bool) -> int:
        _, errors = driver.communicate()
        status = driver.returncode
        told = [line for line in errors.splitlines() if line.strip()]
        last = told[-1] if told else ""
        self._story.ends.append("killed" if murdered and status < 0 else str(status))
        if status and not murdered:
            self._story.sentences.append(last)
        if not murdered and (status not in (0, 1) or (status and not _SENTENCE.match(last))):
            self._story.complaints.append(f"status {status} without a sentence: {last[:200]!r}")
        if "Traceback" in errors:
            self._story.complaints.append(f"a bare traceback that ends in {last[:200]!r}")
        return status

    def _inject(self, fault: Fault, driver: subprocess.Popen[str]) -> bool:
        """Does it, where there is somebody to do it to; returns whether the driver itself was killed."""
        cluster, chance = self._cluster, self._chance
        if fault.kind == "stopped driver":
            self._outlive(driver)
            hit = 1
        else:
            hit = kill({
                "generator": lambda: pick(cluster.workers("GenerateStage"), chance),
                "reader": lambda: pick(cluster.workers("ReadPromptTable"), chance),
                "all actors": lambda: cluster.workers(""),
                "raylet": lambda: pick(cluster.raylets()[1:], chance),
                "head raylet": lambda: cluster.raylets()[:1],
                "gcs": cluster.gcs,
                "driver": lambda: [driver.pid],
            }[fault.kind]())  # fmt: skip
        if hit:
            self._faults.remove(fault)
            self._story.injected.append(f"{fault.kind} at {fault.at}")
        return bool(hit) and fault.kind == "driver"

    def _outlive(self, driver: subprocess.Popen[str]) -> None:
        """Stops the driver, lets a successor finish everything, and wakes it up again."""
        driver.send_signal(signal.SIGSTOP)
        try:
            with self._driver() as successor:
                try:
                    _, errors = successor.communicate(timeout=_PATIENCE)
                except subprocess.TimeoutExpired:
                    self._story.complaints.append("the successor of a stopped driver hung")
                    return
                if successor.returncode:
                    last = (errors.strip().splitlines() or [""])[-1]
                    self._story.complaints.append(f"the successor ended with {successor.returncode}: {last[:200]!r}")
        finally:
            driver.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def _driver(self) -> Iterator[subprocess.Popen[str]]:
        with (
            tempfile.TemporaryFile("w+") as errors,
            _Reading(self._table.command(self._output), errors, self._cluster.environment(), self._story) as process,
        ):
            yield process


class _Reading(subprocess.Popen):  # type: ignore[type-arg]
    """A process whose standard error goes to a file: nobody reads a pipe while faults are injected."""

    def __init__(self, command, errors, environment, story) -> None:
        self._errors = errors
        super().__init__(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)

    def communicate(self, input=None, timeout=None):
        self.wait(timeout)
        # What a process could not say itself another one says after its end (`pipeline.last_words`).
        deadline = time.monotonic() + _AFTER
        while True:
            self._errors.seek(0)
            told = self._errors.read()
            last = (told.strip().splitlines() or [""])[-1]
            if not self.returncode or _SENTENCE.match(last) or time.monotonic() > deadline:
                return "", told
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        if self.poll() is None:
            self.kill()
        self.wait()


def campaign(seeds: list[int], directory: Path) -> list[Story]:
    """Plays the scenarios one after another on one cluster, and prints a line for each."""
    table = Table(directory)
    table.undisturbed()
    stories = []
    with Raylets() as cluster:
        for seed in seeds:
            stories.append(Scenario(seed, table, cluster, schedule(seed)).play())
            print(stories[-1].line(), flush=True)
    return stories


def summary(stories: list[Story]) -> str:
    """The table at the end."""
    kinds: Counter[str] = Counter(fault.rpartition(" at ")[0] for story in stories for fault in story.injected)
    rows = [
        ("scenarios", len(stories)),
        ("faults injected", sum(kinds.values())),
        ("faults that met nobody", sum(len(story.missed) for story in stories)),
        *((f"  {kind}", kinds[kind]) for kind in KINDS if kinds[kind]),
        ("starts", sum(story.starts for story in stories)),
        ("rows lost", sum(story.lost for story in stories)),
        ("rows doubled", sum(story.doubled for story in stories)),
        ("same bytes", f"{sum(story.same for story in stories)} of {len(stories)}"),
        ("broken promises", sum(not story.good for story in stories)),
    ]
    return "\n".join(f"{name:<23} {value}" for name, value in rows)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="scenarios to play (default: 20)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one (default: 0)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="promptmill-chaos-") as directory:
        stories = campaign(list(range(options.first, options.first + options.seeds)), Path(directory))
    print(summary(stories))
    return 0 if all(story.good for story in stories) else 1


if __name__ == "__main__":
    sys.exit(main())
