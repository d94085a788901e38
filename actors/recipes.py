"""Recipes: named ways to expand prompts, one YAML file each."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from actors.contracts import Sampling, Turn
from actors.errors import UserError
from actors.seeds import derive_seed
from actors.structured import read_fields

_SHIPPED = Path(__file__).parent / "recipes"


class Example(BaseModel):
    """One few-shot exchange: a prompt, and the description that the model should have written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str
    description: str
    axes: dict[str, str] = {}


class Recipe(BaseModel):
    """How prompts are expanded. The whole text of a recipe is part of a run's fingerprint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="as rows and config name it")
    about: str = Field("", description="one line for people")
    languages: Annotated[list[str] | None, Field(description="en, zh: prompts in another script stand for themselves")]
    system: str = Field(description="the system message")
    examples: list[Example] = Field(description="few-shot turns before the request")
    template: str = Field(description="the request; {prompt} and the axes' names are filled in")
    opening: str = Field("", description="how the reply must begin; {prompt} is filled in without its full stop")
    axes: dict[str, list[str]] = Field({}, description="what varies from variant to variant, by name")
    max_new_tokens: int = Field(32, ge=1, le=4096)
    temperature: float = Field(0.0, ge=0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    repetition_penalty: float = Field(1.0, ge=1, le=2, description="above 1: less of what the reply already says")
    greedy_first: bool = Field(False, description="variant 0 is greedy, the others are sampled")
    fields: list[str] = Field([], description="the reply is a JSON object of these strings (engines vllm and openai)")
    compose: str = Field("", description="the description made of the fields, their names in braces")

    @model_validator(mode="after")
    def _composed(self) -> Recipe:
        if bool(self.fields) != bool(self.compose):
            raise ValueError("`fields` and `compose` come together")
        if self.fields and self.opening:
            raise ValueError("a reply in `fields` has no `opening`")
        named = set(re.findall(r"\{(\w+)\}", self.compose))
        if self.fields and (lost := sorted(named ^ set(self.fields))):
            raise ValueError(f"`compose` and `fields` do not name the same: {', '.join(lost)}")
        return self

    def canonical(self) -> str:
        """The recipe as text that is equal where the recipes are; what came later is in it only where it is used."""
        later = {name for name in ("fields", "compose") if not getattr(self, name)}
        return json.dumps(self.model_dump(exclude=later), sort_keys=True, ensure_ascii=False)

    def described(self, reply: str) -> str | None:
        """The description made of a reply in fields; None where it is malformed."""
        found = read_fields(reply, self.fields)
        return None if found is None else re.sub(r"\{(\w+)\}", lambda name: found[name[1]], self.compose)

    def context(self) -> list[Turn]:
        """The turns that all requests share."""
        turns = [Turn("system", self.system)] if self.system else []
        for example in self.examples:
            turns.append(Turn("user", self._fill(self.template, example.prompt, example.axes)))
            turns.append(Turn("assistant", example.description))
        return turns

    def request(self, prompt: str, variant: int, emphasis: str = "") -> tuple[str, str]:
        """(the request's text, the reply's opening) of one job; the axes' values follow from prompt and variant.

        ``emphasis`` are words that an earlier description lost: they are named at the end of the request.
        """
        # Consecutive variants of a prompt take different values; where they begin differs from prompt to prompt.
        values = {
            axis: choices[(derive_seed(0, axis, prompt) + variant) % len(choices)]
            for axis, choices in self.axes.items()
        }
        asked = self._fill(self.template, prompt, values)
        return f"{asked}\nBe sure to name: {emphasis}." if emphasis else asked, self.begin(prompt)

    def begin(self, prompt: str) -> str:
        """The opening for one prompt, "" where the recipe has none."""
        if not self.opening:
            return ""
        words = " ".join(prompt.split()).rstrip(" .,;:!。")
        first, space, rest = words.partition(" ")
        if first in {"A", "An", "The"}:
            words = f"{first.lower()}{space}{rest}"
        opening = self._fill(self.opening, words, {})
        return opening[:1].upper() + opening[1:]

    def sampling(self, variant: int) -> Sampling:
        """How the tokens of a variant are drawn."""
        if self.greedy_first and variant == 0:
            return Sampling(repetition_penalty=self.repetition_penalty, fields=tuple(self.fields))
        return Sampling(self.temperature, self.top_p, self.top_k, self.repetition_penalty, tuple(self.fields))

    @staticmethod
    def _fill(text: str, prompt: str, values: dict[str, str]) -> str:
        # Not str.format: a prompt may hold braces, and a template names what it knows.
        for name, value in values.items():
            text = text.replace("{" + name + "}", value)
        return text.replace("{prompt}", prompt)


def load_recipe(name: str) -> Recipe:
    """A shipped recipe by name, or one from a YAML file by path.

    Raises:
        UserError: no such recipe (the nearest is named), or a file that is none.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else _SHIPPED / f"{name}.yaml"
    if not path.is_file() or (path.parent == _SHIPPED and name not in recipe_names()):
        near = difflib.get_close_matches(name, recipe_names(), n=1, cutoff=0.0)
        raise UserError(f"no recipe '{name}'; the nearest is '{near[0]}', or name a YAML file")
    return _parse(path.read_text(), str(path), Path(name).stem)


def parse_recipe(text: str) -> Recipe:
    """A recipe from its canonical text."""
    return Recipe.model_validate_json(text)


def recipe_names() -> Sequence[str]:
    """The shipped recipes, sorted."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def _parse(text: str, where: str, name: str) -> Recipe:
    try:
        return Recipe.model_validate({"name": name, **yaml.safe_load(text)})
    except (yaml.YAMLError, TypeError) as error:
        raise UserError(f"recipe '{where}' is no YAML mapping: {' '.join(str(error).split())[:160]}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"recipe '{where}': option '{key}': {first['msg']}") from error
