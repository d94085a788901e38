"""The engine ``vllm``: vLLM's offline `LLM` inside the actor, for GPUs that serve hundreds of rows at once.

Ray Data has an LLM processor of its own (`ray.data.llm`). It is not used: it cuts its input into batches of its own
size and gives rows back as they are answered, through five stages with a pool each, so that a block would no longer be
a shard, whose rows are rendered and committed together by whoever takes the block. The engine below is what it runs.

A shard's requests go to vLLM together, which batches them continuously; the context that they share is tokenised once,
as the same ids for each, so that automatic prefix caching finds it. Each row draws from a generator with its own seed.
Unlike the engine ``transformers``, vLLM's repetition penalty counts the tokens of the request too, and kernels of
another batch size may round differently: a text follows from its shard, not from its row alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.chat import Chat
from actors.contracts import Generation, Request, Sampling, Turn
from actors.engine_settings import VllmSettings
from actors.errors import BrokenEngine, PromptmillError, UserError
from actors.language_model import transformers_directory
from actors.model_uri import LocalModel
from actors.offline import offline, unloadable
from actors.structured import json_schema

_LORA = 1  # the number under which vLLM knows the one adapter


class VllmEngine:
    """See `actors.contracts.Engine`.

    Args:
        model: a directory in transformers' layout, or a GGUF file (converted once).
        dtype: number format of the weights.
        rows: requests that vLLM runs at once, at most.
        settings: the rest.
        lora: the adapter's directory.
        cache: where converted GGUF weights are kept; ``None`` means the default.

    Raises:
        UserError: vLLM is not installed, or cannot load the model.
    """

    def __init__(
        self,
        model: LocalModel,
        *,
        dtype: str,
        rows: int,
        settings: VllmSettings,
        lora: Path | None = None,
        cache: Path | None = None,
    ) -> None:
        # Inside this process vLLM schedules the same requests in the same order each time, and dies with the actor.
        if settings.tensor_parallel == 1:
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        # vLLM logs the prompts of requests at this level and below.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        try:
            from vllm import LLM
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise UserError(
                f"expand.engine=vllm needs vLLM where the expand stage runs ({error}): pip install 'promptmill[vllm]'"
            ) from error
        adapter = {"enable_lora": True, "max_lora_rank": settings.max_lora_rank} if lora is not None else {}
        try:
            directory = transformers_directory(model, cache)
            with offline():
                self._llm: Any = LLM(
                    model=str(directory), dtype=dtype, seed=0, trust_remote_code=model.trusted,
                    load_format="auto" if model.trusted else "safetensors", enable_prefix_caching=True,
                    max_num_seqs=rows, tensor_parallel_size=settings.tensor_parallel,
                    max_model_len=settings.max_model_len, quantization=settings.quantization,
                    enforce_eager=settings.eager, gpu_memory_utilization=settings.gpu_memory, **adapter,
                )  # fmt: skip
        except PromptmillError:
            raise
        except Exception as error:
            # A model that does not fit, or is no causal one, makes vLLM raise whatever it happens to trip over.
            raise UserError(unloadable(error, f"the language model {model.uri}")) from error
        self._tokenizer = self._llm.get_tokenizer()
        self._room: int = self._llm.llm_engine.model_config.max_model_len
        self._lora = LoRARequest("expand", _LORA, str(lora)) if lora is not None else None
        self._context: tuple[Turn, ...] | None = None
        self._chat: Chat

    def generate(
        self, context: Sequence[Turn], requests: Sequence[Request], *, max_new_tokens: int, sampling: Sampling
    ) -> list[Generation]:
        """See `actors.contracts.Engine.generate`."""
        from vllm import TokensPrompt

        if self._context != tuple(context):
            self._chat, self._context = Chat(self._tokenizer, context), tuple(context)
        prompts, asked = [], []
        made = [Generation("", "no_room", 0)] * len(requests)
        for index, request in enumerate(requests):
            ids = self._chat.prefix + self._chat.suffix(request)
            if len(ids) + max_new_tokens <= self._room:
                prompts.append(TokensPrompt(prompt_token_ids=ids))
                asked.append(index)
        if not prompts:
            return made
        params = [self._params(requests[index], max_new_tokens, sampling) for index in asked]
        try:
            answers = self._llm.generate(prompts, params, use_tqdm=False, lora_request=self._lora)
        except Exception as error:
            # Requests of a call that broke off may still be inside: no answer after this one could be trusted.
            raise BrokenEngine(f"vLLM failed: {type(error).__name__}") from error
        for index, answer in zip(asked, answers, strict=True):
            made[index] = _generation(answer.outputs[0], whole=bool(sampling.fields))
        return made

    def _params(self, request: Request, max_new_tokens: int, sampling: Sampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        held: dict[str, Any] = {"stop": ["\n"]}
        if sampling.fields:
            held = {"structured_outputs": StructuredOutputsParams(json=json_schema(sampling.fields))}
        return SamplingParams(
            temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k, max_tokens=max_new_tokens,
            repetition_penalty=sampling.repetition_penalty, seed=request.seed, **held,
        )  # fmt: skip


def _generation(output: Any, *, whole: bool) -> Generation:
    tokens = len(output.token_ids)
    if output.finish_reason not in {"stop", "length"}:
        return Generation("", "failed", tokens)
    return Generation(output.text, "length" if output.finish_reason == "length" else "end", tokens, whole=whole)
