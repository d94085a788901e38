"""What the tests ask of SmolLM2, whichever way vLLM is spoken to."""

from __future__ import annotations

from typing import Any

from actors.contracts import Engine, Request, Sampling
from actors.recipes import Recipe, load_recipe

PROMPTS = ["a wooden bridge", "a red kite in the sky", "two cats on a sofa", "an old lighthouse", "a bowl of soup"]
CONTEXT = load_recipe("faithful").context()
STAGED = Recipe(
    name="staged", languages=None, system="Describe in JSON.", examples=[], template="{prompt}",
    fields=["subject", "light"], compose="{subject}, in {light}", max_new_tokens=256,
)  # fmt: skip
"""A recipe that asks for a JSON object."""


def requests(seed: int = 0) -> list[Request]:
    recipe = load_recipe("faithful")
    asked = [recipe.request(prompt, 0) for prompt in PROMPTS]
    return [Request(text, opening, seed + number) for number, (text, opening) in enumerate(asked)]


def ask(engine: Engine, sampling: Sampling, seed: int = 0) -> list[Any]:
    return list(engine.generate(CONTEXT, requests(seed), max_new_tokens=16, sampling=sampling))
