"""The typed configuration of rounds of synthesis."""

from __future__ import annotations

from pipeline.config import SynthesizeConfig
from pipeline.config_base import Section, option


class Refine(Section):
    """Rounds after the first, over the prompts whose images match their words least."""

    rounds: int = option(3, "rounds after the first", ge=1, le=100)
    share: float = option(0.3, "share of the prompts that a round takes up again, the lowest", gt=0, le=1)
    min_gain: float = option(0.001, "stop when a round adds less than this to the mean similarity", ge=0)
    images: int | None = option(None, "stop when so many images were made, of all rounds; null = no such budget", ge=1)
    recipes: list[str] = option([], "recipes of rounds 1, 2 ... by turns; empty = the run's own, other variants of it")


class RefineConfig(SynthesizeConfig):
    """A table of prompts in, the best of several rounds of images out."""

    refine: Refine = option(Refine(), "the rounds")
