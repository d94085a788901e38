"""The engine ``openai``: descriptions from any OpenAI-compatible endpoint, many requests at once, none lost.

Which answer a request gets must not depend on its neighbours, so each is a request of its own with its own seed. How
many are under way follows the endpoint (`actors.aimd`). A row that the endpoint refuses is that row's matter; one that
answers nobody ends the job:

- ``busy`` (429, 503) and ``away`` (no connection, 502, 504) are asked again until nobody has been answered for
  ``patience`` seconds;
- ``broken`` (500, an answer that never comes) is asked ``attempts`` times, then the row fails; eight that fail, with
  none answered between them, are no matter of rows.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Sequence
from typing import Any

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from actors.aimd import Aimd
from actors.chat_endpoint import ChatEndpoint, Refusal, Reply, TryAgain
from actors.contracts import Generation, Request, Sampling, Turn
from actors.engine_settings import OpenAISettings
from actors.errors import JobError
from actors.structured import json_schema

_MOST_FAILURES = 8
_SEEDS = 2**31
"""Seeds are sent modulo this: some servers keep 32 bits of them, and what JavaScript passes on loses those above 53."""
_THOUGHT = re.compile(r"^\s*<think>.*?(?:</think>|\Z)", re.DOTALL)


class OpenAIEngine:
    """See `actors.contracts.Engine`.

    Args:
        settings: the endpoint; its key is read from the environment of this process.
    """

    def __init__(self, settings: OpenAISettings) -> None:
        self._settings = settings
        self._runner = asyncio.Runner()
        key = os.environ.get(settings.key_env, "") if settings.key_env else ""
        self._endpoint = ChatEndpoint(
            settings.base_url, key, settings.key_env or "", timeout=settings.timeout, connections=settings.max_in_flight
        )
        self._limit = Aimd(settings.max_in_flight)
        self._answered_at = time.monotonic()
        self._failures = 0
        self._backoff = wait_random_exponential(multiplier=0.5, max=20)

    def generate(
        self, context: Sequence[Turn], requests: Sequence[Request], *, max_new_tokens: int, sampling: Sampling
    ) -> list[Generation]:
        """See `actors.contracts.Engine.generate`.

        Raises:
            JobError: the endpoint answers nobody, or refuses everybody.
            UserError: key, address or model are wrong.
        """
        bodies = [self._body(context, request, max_new_tokens, sampling) for request in requests]
        self._answered_at = time.monotonic()  # the time between two shards is not the endpoint's
        return self._runner.run(self._all(bodies))

    def close(self) -> None:
        """Closes connections and event loop."""
        self._runner.run(self._endpoint.close())
        self._runner.close()

    async def _all(self, bodies: Sequence[dict[str, Any]]) -> list[Generation]:
        tasks = [asyncio.ensure_future(self._one(body)) for body in bodies]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            # The first that gives up speaks for all: the others would only find the same.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _one(self, body: dict[str, Any]) -> Generation:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(TryAgain), wait=self._wait, stop=self._give_up, reraise=True
        )
        try:
            answer: Reply | Refusal = await retrying(self._try, body)
        except TryAgain as error:
            if error.kind != "broken":
                raise JobError(self._silent(error.why)) from None
            answer = Refusal("failed", error.why)
        if isinstance(answer, Reply):
            self._failures = 0
            fields = "response_format" in body
            return _generation(answer, whole=fields or self._settings.opening == "free", fields=fields)
        if answer.kind == "failed":
            self._failures += 1
            if self._failures >= _MOST_FAILURES:
                raise JobError(
                    f"{self._failures} requests in a row failed at the endpoint ({answer.why}): see its log, and "
                    "whether it knows each field that recipe and expand.openai.body ask for; finished shards stay"
                )
        return Generation("", answer.kind, 0)

    async def _try(self, body: dict[str, Any]) -> Reply | Refusal:
        async with self._limit.turn() as epoch:
            try:
                answer = await self._endpoint.ask(body)
            except TryAgain as error:
                if error.kind == "busy":
                    pause = error.pause or 0.0
                    if pause > self._settings.patience:
                        raise JobError(
                            f"the endpoint asks to wait for {pause:.0f} s, longer than expand.openai.patience="
                            f"{self._settings.patience:g}: run again later, finished shards stay"
                        ) from None
                    self._limit.refused(epoch, pause)
                raise
            self._limit.answered()
            self._answered_at = time.monotonic()
            return answer

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        wait: float = self._backoff(state)
        if isinstance(error, TryAgain) and error.kind != "busy":  # for busy ones the window waits
            wait = max(wait, min(error.pause or 0.0, self._settings.patience))
        return wait

    def _give_up(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, TryAgain) and error.kind == "broken":
            return state.attempt_number >= self._settings.attempts
        return time.monotonic() - self._answered_at > self._settings.patience

    def _silent(self, why: str) -> str:
        return (
            f"the endpoint of expand.openai.base_url has answered nobody for {self._settings.patience:g} s ({why}; "
            "expand.openai.patience): see whether it is up and reached from the nodes; finished shards stay, run again "
            "to resume"
        )

    def _body(
        self, context: Sequence[Turn], request: Request, max_new_tokens: int, sampling: Sampling
    ) -> dict[str, Any]:
        """The request's JSON. Fields that OpenAI itself does not know are there only where the recipe needs them."""
        settings = self._settings
        turns = [*context, Turn("user", request.text)]
        body: dict[str, Any] = {
            "model": settings.model,
            settings.max_tokens_field: max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": request.seed % _SEEDS,
        }
        if sampling.top_k > 0:
            body["top_k"] = sampling.top_k
        if sampling.repetition_penalty != 1:
            body["repetition_penalty"] = sampling.repetition_penalty
        if sampling.fields:
            schema = {"name": "description", "strict": True, "schema": json_schema(sampling.fields)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif settings.opening == "continue" and request.opening:
            turns.append(Turn("assistant", request.opening))
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        body["messages"] = [{"role": turn.role, "content": turn.text} for turn in turns]
        body |= settings.body
        return {name: value for name, value in body.items() if value is not None}


def _generation(reply: Reply, *, whole: bool, fields: bool) -> Generation:
    """The reply's first line that says something: a chat model may go on for paragraphs, or think aloud before."""
    text = _THOUGHT.sub("", reply.text)
    lines = [text] if fields else [line for line in text.splitlines() if line.strip()]
    cut = reply.finish == "length" and len(lines) <= 1
    return Generation(
        lines[0] if lines else "", "length" if cut else "end", reply.tokens, reply.prompt_tokens, whole=whole
    )
