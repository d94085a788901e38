"""Contests: two or more ways to do the same work, run in turn on the same cores; what counts is the ratio of each turn.

A machine that others use gives other times every minute, but sides that follow one another within a turn share its
moods. So a ratio is taken within each turn, and the median and the spread of those ratios are told. Absolute figures
are in ``bench.json`` for whoever wants them; they are no result.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Side = Callable[[], Mapping[str, float]]
"""One repetition: does the work and returns what it measured, by name (``{"rows/s": 12.5}``)."""


@dataclass(frozen=True)
class Comparison:
    """``ours`` over ``baseline`` (names of sides) in one measure; at least or at most so much is the target."""

    ours: str
    baseline: str
    measure: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        """The target as it is printed."""
        return ", ".join(
            f"{sign} {value:g}" for sign, value in ((">=", self.at_least), ("<=", self.at_most)) if value is not None
        )

    def met(self, ratio: float) -> bool | None:
        """Whether a ratio meets the target; None where there is none."""
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or ratio >= self.at_least) and (self.at_most is None or ratio <= self.at_most)


@dataclass(frozen=True)
class Contest:
    """What one benchmark compares.

    Args:
        sides: by name, in the order of a turn (every other turn is run backwards).
        comparisons: which ratios are taken.
        turns: times that each side is run and counted.
        warm: whether each side is run once before, not counted.
    """

    sides: Mapping[str, Side]
    comparisons: Sequence[Comparison]
    turns: int = 5
    warm: bool = True


@dataclass
class Bench:
    """What a benchmark is given.

    Args:
        quick: prove only that it runs: the smallest sizes, one turn.
        scratch: an empty directory of its own.
        prompts: the prompts to use, English.
        cleanup: what it opened and has to be closed after the last turn.
    """

    quick: bool
    scratch: Path
    prompts: Sequence[str]
    cleanup: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


Benchmark = Callable[[Bench], Contest]


def run_contest(contest: Contest, quick: bool, say: Callable[[str], None], most: int | None = None) -> dict[str, Any]:
    """Runs all turns, at most ``most``; each side's runs and each comparison's ratios, as plain JSON types."""
    names = list(contest.sides)
    count = 1 if quick else min(contest.turns, most or contest.turns)
    if contest.warm and not quick:
        for name in names:
            contest.sides[name]()
    turns: list[dict[str, dict[str, float]]] = []
    for turn in range(count):
        found: dict[str, dict[str, float]] = {}
        for name in names if turn % 2 == 0 else names[::-1]:
            found[name] = dict(contest.sides[name]())
            measured = ", ".join(f"{value:.4g} {measure}" for measure, value in found[name].items())
            say(f"turn {turn + 1}: {name}: {measured}")
        turns.append(found)
    return {"turns": turns, "comparisons": [_compare(one, turns) for one in contest.comparisons]}


def _compare(one: Comparison, turns: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    found = _ratios(one, turns, one.measure)
    assert found is not None
    names = {"ours": one.ours, "baseline": one.baseline, "measure": one.measure}
    same = "CPU seconds" if one.measure == "seconds" else one.measure.replace("/s", "/CPU s")
    by_cpu = _ratios(one, turns, same) if same != one.measure else None
    return {**names, **found, "cpu": by_cpu, "target": one.target, "met": one.met(found["ratio"])}


def _ratios(
    one: Comparison, turns: Sequence[Mapping[str, Mapping[str, float]]], measure: str
) -> dict[str, float] | None:
    if not all(measure in turn[side] for turn in turns for side in (one.ours, one.baseline)):
        return None
    ratios = [turn[one.ours][measure] / turn[one.baseline][measure] for turn in turns]
    return {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios), "turns": len(ratios)}


def rate(unit: str, work: Callable[[], float]) -> dict[str, float]:
    """Runs ``work`` once; the amount that it returns over the seconds that it took, as a side's measurement.

    A second figure is over the CPU time of this process, all threads together: where others crowd the cores it tells
    more, but it knows nothing of waiting (disk, network, an idle core), so it decides no target.
    """
    begun, spent = time.perf_counter(), time.process_time()
    amount = work()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - spent
    return {f"{unit}/s": amount / seconds, f"{unit}/CPU s": amount / max(cpu, 1e-9)}


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Runs ``work`` once; seconds by the clock, and CPU seconds of this process and of children that have ended."""
    begun, before = time.perf_counter(), os.times()
    work()
    after = os.times()
    return {"seconds": time.perf_counter() - begun, "CPU seconds": max(sum(after[:4]) - sum(before[:4]), 1e-9)}


def limit(seconds: float) -> Side:
    """The side that stands for a promise: it takes exactly so long."""
    return lambda: {"seconds": seconds, "CPU seconds": seconds}


def say(text: str) -> None:
    """A line of progress, apart from the page."""
    print(text, file=sys.stderr, flush=True)
