"""The typed configuration of a nightly run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import model_validator

from pipeline.config import SynthesizeConfig
from pipeline.config_base import Section, place


class Nightly(Section):
    """What surrounds the run of one night. None of it decides a dataset's bytes once its prompts are chosen."""

    incremental: bool = place(
        False, "make only prompts that no earlier output has; which, is chosen once a date and kept beside the output"
    )
    since: list[str] = place(
        [],
        "the earlier outputs, URIs or globs (the last part may have * or {date}); "
        "empty = the earlier dates of output.uri",
    )
    keep: int | None = place(
        None, "complete outputs kept, the newest; older ones are deleted when latest.json has moved; null = all", ge=1
    )
    deep_verify: bool = place(False, "verify also decodes every image and reads its marks, as verify --deep does")
    move_back: bool = place(False, "let latest.json go back to an older date")
    summary: str | None = place(
        None,
        "where the morning's summary goes: a file's URI, or an https:// webhook that takes JSON by POST; {date} is "
        "filled in; a webhook's URL is a secret: write ${oc.env:NAME}",
    )

    @model_validator(mode="after")
    def _has_a_use(self) -> Nightly:
        if self.since and not self.incremental:
            raise ValueError("since names earlier outputs, and incremental is false: set incremental to true")
        return self

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        # The path of a webhook is its password.
        yield from ((name, value) for name, value in super().__repr_args__() if name != "summary")


class NightlyConfig(SynthesizeConfig):
    """One dataset a night: what `synthesize` makes, checked, pointed at, and told."""

    nightly: Nightly = place(Nightly(), "what surrounds the run of one night")
