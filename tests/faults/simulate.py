"""Plays seeds of the shard protocol's simulation and prints what was done to it and what it lost.

python -m tests.faults.simulate --seeds 10000 --first 1000
python -m tests.faults.simulate --first 42 --trace          one seed, step by step
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.faults.simulated_store import FAULTS
from tests.faults.simulation import Outcome, simulate


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table; the exit status is 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1000, metavar="N", help="how many seeds (default: 1000)")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="the first seed (default: 0)")
    parser.add_argument("--processes", type=int, default=1, metavar="P", help="play P seeds at once (default: 1)")
    parser.add_argument("--trace", action="store_true", help="play the first seed alone and print every step")
    options = parser.parse_args(arguments)
    if options.trace:
        outcome = simulate(options.first)
        print("\n".join([*outcome.trace, f"digest {outcome.digest}", *outcome.problems]))
        return bool(outcome.problems)
    begun = time.monotonic()
    outcomes = play(range(options.first, options.first + options.seeds), options.processes)
    return report(outcomes, time.monotonic() - begun)


def play(seeds: Sequence[int], processes: int) -> list[Outcome]:
    """The outcomes of many seeds in their order, without their traces."""
    if processes == 1:
        return [_untraced(seed) for seed in seeds]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return pool.map(_untraced, seeds, chunksize=25)


def _untraced(seed: int) -> Outcome:
    outcome = simulate(seed)
    outcome.trace.clear()
    return outcome


def report(outcomes: Sequence[Outcome], seconds: float) -> int:
    """Prints the sums; returns the exit status."""
    faults = sum((outcome.faults for outcome in outcomes), Counter[str]())
    print(f"scenarios        {len(outcomes)} (seeds {outcomes[0].seed}..{outcomes[-1].seed}) in {seconds:.0f} s")
    print(f"drivers started  {sum(outcome.starts for outcome in outcomes)}")
    print(f"shards           {sum(outcome.shards for outcome in outcomes)}")
    print(f"faults injected  {faults.total()}")
    for fault in FAULTS:
        print(f"  {faults[fault]:>8} {fault}")
    print(f"rows lost        {sum(outcome.lost for outcome in outcomes)}")
    print(f"rows doubled     {sum(outcome.doubled for outcome in outcomes)}")
    broken = [outcome for outcome in outcomes if outcome.problems]
    print(f"broken promises  {len(broken)}")
    for outcome in broken[:20]:
        print(f"  seed {outcome.seed}: {outcome.problems[0]}")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
