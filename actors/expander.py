"""The LLM actor: descriptions for prompts, checked; where one does not pass, the prompt stands in."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from actors.checks import MAX_PROMPT_CHARS, clean, judge, speaks
from actors.contracts import Description, Engine, Generation, Request, Sampling, TextJob, Turn
from actors.device import use_resources
from actors.engine_settings import OpenAISettings, VllmSettings
from actors.errors import BrokenEngine, PromptmillError
from actors.model_uri import resolve_model
from actors.own_thread import OwnThread
from actors.recipes import Recipe, parse_recipe


@dataclass(frozen=True)
class ExpanderSettings:
    """What an expander actor is told; picklable. ``recipes`` are canonical texts by name."""

    engine: str
    model: str
    recipes: Mapping[str, str]
    batch_rows: int
    max_new_tokens: int | None
    dtype: str
    cpus: float
    gpus: float
    allow_unsafe_models: bool
    openai: OpenAISettings | None = None
    vllm: VllmSettings | None = None
    sha256: str | None = None
    lora_sha256: str | None = None


def build_expander(settings: ExpanderSettings) -> Expander:
    """Loads the model on the actor's device, or connects to the endpoint. Raises `UserError` where that cannot be."""
    device = use_resources(settings.cpus, settings.gpus)
    recipes = {name: parse_recipe(text) for name, text in settings.recipes.items()}
    # Engines are not imported at the top: the driver, which only hands settings on, need not wait for them.
    if settings.openai is not None:
        from actors.engine_openai import OpenAIEngine

        # A shard's requests go to the engine together: it knows best how many may be under way.
        return Expander(OpenAIEngine(settings.openai), recipes, sys.maxsize, settings.max_new_tokens)
    model = resolve_model(settings.model, allow_unsafe=settings.allow_unsafe_models, expect=settings.sha256)
    if settings.vllm is not None:
        from actors.engine_vllm import VllmEngine

        lora = settings.vllm.lora
        adapter = (
            resolve_model(lora, allow_unsafe=None, expect=settings.lora_sha256, adapter=True).path if lora else None
        )
        own = VllmEngine(model, dtype=settings.dtype, rows=settings.batch_rows, settings=settings.vllm, lora=adapter)
        return Expander(own, recipes, sys.maxsize, settings.max_new_tokens)
    from actors.engine_transformers import TransformersEngine

    thread = OwnThread()
    engine = thread(TransformersEngine, model, device, dtype=settings.dtype, batch_rows=settings.batch_rows)
    return Expander(_Inside(thread, engine), recipes, engine.call_rows, settings.max_new_tokens)


class _Inside:
    """An engine that answers in the thread that it was loaded in."""

    def __init__(self, thread: OwnThread, engine: Engine) -> None:
        self._thread, self._engine = thread, engine

    def generate(
        self, context: Sequence[Turn], requests: Sequence[Request], *, max_new_tokens: int, sampling: Sampling
    ) -> list[Generation]:
        return self._thread(self._engine.generate, context, requests, max_new_tokens=max_new_tokens, sampling=sampling)


class Expander:
    """Writes descriptions with one engine.

    Args:
        engine: runs the language model.
        recipes: by the name that jobs use.
        batch_rows: requests of one call of the engine.
        max_new_tokens: overrides the recipes' own; None leaves it to them.
    """

    def __init__(
        self, engine: Engine, recipes: Mapping[str, Recipe], batch_rows: int, max_new_tokens: int | None = None
    ) -> None:
        self._engine, self._recipes, self._batch_rows = engine, recipes, batch_rows
        self._max_new_tokens = max_new_tokens

    def expand(self, jobs: Sequence[TextJob]) -> list[Description]:
        """One description a job, in order. Identical jobs go through the model once.

        Raises:
            BrokenEngine: the engine cannot go on; every other error falls on the rows that cause it.
        """
        made: dict[TextJob, Description] = {}
        wanted: dict[tuple[str, Sampling], list[TextJob]] = {}
        for job in dict.fromkeys(jobs):
            recipe = self._recipes[job.recipe]
            status = _unasked(job.prompt, recipe)
            if status is not None:
                made[job] = Description(job.prompt, status, 0)
            else:
                wanted.setdefault((job.recipe, recipe.sampling(job.variant)), []).append(job)
        for (name, sampling), group in wanted.items():
            # Rows of like length waste the least padding and end at about the same time.
            group.sort(key=lambda job: len(job.prompt))
            for start in range(0, len(group), self._batch_rows):
                self._batch(self._recipes[name], sampling, group[start : start + self._batch_rows], made)
        counted: set[TextJob] = set()
        result = []
        for job in jobs:
            found = made[job]
            result.append(found if job not in counted else replace(found, tokens=0, prompt_tokens=0))
            counted.add(job)
        return result

    def _batch(
        self, recipe: Recipe, sampling: Sampling, jobs: Sequence[TextJob], made: dict[TextJob, Description]
    ) -> None:
        """Runs one micro-batch; one that fails is taken apart until the poison row is alone."""
        asked = [recipe.request(clean(job.prompt), job.variant, clean(job.emphasis)) for job in jobs]
        requests = [Request(text, opening, job.seed) for (text, opening), job in zip(asked, jobs, strict=True)]
        limit = self._max_new_tokens or recipe.max_new_tokens
        try:
            found = self._engine.generate(recipe.context(), requests, max_new_tokens=limit, sampling=sampling)
        except (BrokenEngine, PromptmillError):
            raise
        except Exception:  # noqa: BLE001 - whatever the model raises on a row is that row's
            if len(jobs) == 1:
                made[jobs[0]] = Description(jobs[0].prompt, "failed", 0)
                return
            middle = len(jobs) // 2
            self._batch(recipe, sampling, jobs[:middle], made)
            self._batch(recipe, sampling, jobs[middle:], made)
            return
        for job, request, generation in zip(jobs, requests, found, strict=True):
            made[job] = _describe(job, request, generation, recipe)


def _unasked(prompt: str, recipe: Recipe) -> str | None:
    """Why the model is not asked at all, or None."""
    if len(prompt) > MAX_PROMPT_CHARS:
        return "too_long"
    return None if speaks(prompt, recipe.languages) else "unsupported_language"


def _describe(job: TextJob, request: Request, generation: Generation, recipe: Recipe) -> Description:
    taught = [recipe.system, *(example.description for example in recipe.examples)]
    opening = "" if generation.whole else request.opening
    if recipe.fields and generation.stop in {"end", "length"}:
        composed = recipe.described(generation.text)
        if composed is None:
            status = "malformed" if generation.stop == "end" else "truncated"
            return Description(job.prompt, status, generation.tokens, generation.prompt_tokens)
        generation = replace(generation, text=composed, stop="end")
    # A prompt that is itself an example's must not be rejected for resembling it.
    taught = [line for line in taught if not line.casefold().startswith(clean(job.prompt).casefold().rstrip("."))]
    status, text = judge(request.text, job.prompt, opening, generation, taught)
    text = text if status == "accepted" else job.prompt
    return Description(text, status, generation.tokens, generation.prompt_tokens)
