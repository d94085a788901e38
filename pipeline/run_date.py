"""The run date, and the places that hold it: ``s3://bucket/set/{date}`` is one output for each night.

A date is written YYYY-MM-DD, so that names sort as days do. Without one the day is today's in UTC, whatever the time
zone of the machine: two machines agree, and no day comes twice when clocks are set back.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import TypeVar

from actors.errors import UserError
from pipeline.config import SynthesizeConfig
from pipeline.storage_errors import public_uri

C = TypeVar("C", bound=SynthesizeConfig)

DATE = "{date}"
_PLACEHOLDER = re.compile(r"\{[^{}/]*\}")
_WRITTEN = re.compile(r"\d{4}-\d{2}-\d{2}")


def run_date(text: str | None) -> str:
    """The run date as YYYY-MM-DD: the one given, or today's in UTC.

    Raises:
        UserError: it is no date.
    """
    if text is None:
        return dt.datetime.now(dt.UTC).date().isoformat()
    if not is_date(text):
        raise UserError(f"'{text}' is no date; write it as --date YYYY-MM-DD, such as 2026-11-26")
    return text


def is_date(text: str) -> bool:
    """Whether a text is a day of the calendar, written YYYY-MM-DD."""
    if _WRITTEN.fullmatch(text) is None:
        return False
    try:
        dt.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def fill(uri: str, date: str, option: str) -> str:
    """A URI with ``{date}`` filled in.

    Args:
        option: the option that holds the URI, for the message.

    Raises:
        UserError: it has another placeholder.
    """
    for found in _PLACEHOLDER.findall(uri):
        if found != DATE:
            raise UserError(f"{option} has the placeholder {found}; the only one there is is {DATE}, the run date")
    return uri.replace(DATE, date)


def dated(config: C, date: str | None) -> C:
    """The config with the run date in ``output.uri`` and ``prompts.uri``.

    Args:
        date: YYYY-MM-DD; None where nobody gave one.

    Raises:
        UserError: an unknown placeholder; or a place that holds ``{date}``, and no date.
    """
    if date is None:
        for option, uri in (("output.uri", config.output.uri), ("prompts.uri", config.prompts.uri)):
            if DATE in uri:
                raise UserError(
                    f"{option} holds {DATE}: say which with --date YYYY-MM-DD (promptmill nightly takes today's)"
                )
        return config
    output = config.output.model_copy(update={"uri": fill(config.output.uri, date, "output.uri")})
    prompts = config.prompts.model_copy(update={"uri": fill(config.prompts.uri, date, "prompts.uri")})
    return config.model_copy(update={"output": output, "prompts": prompts})


@dataclass(frozen=True)
class DatedPlace:
    """Where the dated outputs of one template lie: directories ``before + YYYY-MM-DD + after`` under ``parent``."""

    parent: str
    before: str
    after: str

    @property
    def template(self) -> str:
        """The template's last part, which tells the outputs of several templates in one parent apart."""
        return f"{self.before}{DATE}{self.after}"

    def name(self, date: str) -> str:
        """The directory of a date, under the parent."""
        return f"{self.before}{date}{self.after}"

    def date_of(self, name: str) -> str | None:
        """The date of a directory's name; None where it is none of this template."""
        if not name.startswith(self.before) or not name.endswith(self.after):
            return None
        middle = name[len(self.before) : len(name) - len(self.after)]
        return middle if is_date(middle) else None


def dated_place(uri: str) -> DatedPlace:
    """Takes ``output.uri`` of a nightly config apart.

    Raises:
        UserError: ``{date}`` is not once in its last part.
    """
    parent, _, last = uri.rstrip("/").rpartition("/")
    if last.count(DATE) != 1 or DATE in parent or parent.endswith((":/", "::")):
        raise UserError(
            f"output.uri of a nightly run must have {DATE} once, in its last part, such as s3://bucket/set/{DATE}; "
            f"it is '{public_uri(uri)}'"
        )
    before, _, after = last.partition(DATE)
    # An absolute path of one part: the root itself is the parent.
    root = "/" if uri.startswith("/") else "."
    return DatedPlace(parent or root, before, after)
