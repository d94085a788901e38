"""The summary of a night, for the morning: one JSON document, put into a file or sent to a webhook.

    {"format": 1, "date": "2026-11-26", "state": "done", "output": "s3://bucket/set/2026-11-26",
     "rows": {"table": 120, "made_before": 100, "planned": 20, "committed": 19, "rejected": 1},
     "rejects": {"empty_prompt": 1}, "images": 38, "bytes": 812345, "seconds": 41.2, "images_per_second": 0.92,
     "latest": {"date": "2026-11-26", "moved": true}, "deleted": ["2026-11-19"],
     "report": "s3://bucket/set/2026-11-26/report.html", "remarks": [], "error": null}

``state`` is ``done``, ``nothing to do``, ``failed`` or ``interrupted``. ``rows`` and ``images`` are of the whole
output, ``seconds`` and ``images_per_second`` of this start. No prompt is in it, and no credential. ``text`` is the
night in one sentence, which is what chat services show.

A webhook's URL is a secret as a whole: messages name its host alone. It is asked by https, without redirects.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from actors.errors import JobError, UserError
from pipeline.incremental import Chosen, neighbour
from pipeline.inert_text import visible
from pipeline.latest import Moved
from pipeline.run_date import fill
from pipeline.storage import Store
from pipeline.swap import replace_file
from pipeline.synthesize import Summary
from pipeline.without_secrets import without_secrets

FORMAT = 1
_TRIES, _TIMEOUT = 5, 30.0
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_SIGNS = str.maketrans("<>@", "‹›＠")
_HERE = ("127.0.0.1", "localhost", "::1")


@dataclass
class Night:
    """What is known of a night so far; filled in as it goes."""

    date: str
    output: str
    state: str = "failed"
    chosen: Chosen | None = None
    summary: Summary | None = None
    moved: Moved | None = None
    deleted: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    error: str | None = None
    seconds: float = 0.0

    def document(self) -> dict[str, Any]:
        """The summary as JSON types; its keys stay."""
        totals = self.summary.totals if self.summary else None
        chosen = self.chosen
        made = self.summary.made_images if self.summary else 0
        planned = totals.planned if totals else (chosen.rows if chosen else None)
        return {
            "format": FORMAT,
            "text": self.text(),
            "date": self.date,
            "state": self.state,
            "output": self.output,
            "rows": {
                "table": chosen.table_rows if chosen else planned,
                "made_before": chosen.made_before if chosen else 0,
                "planned": planned,
                "committed": totals.committed if totals else None,
                "rejected": totals.rejected if totals else None,
            },
            "rejects": dict(sorted(totals.reasons.items())) if totals else {},
            "images": totals.images if totals else None,
            "bytes": totals.bytes if totals else None,
            "seconds": round(self.seconds, 1),
            "images_per_second": round(made / self.seconds, 3) if made and self.seconds else None,
            "latest": {"date": self.moved.pointer.date, "moved": self.moved.moved} if self.moved else None,
            "deleted": list(self.deleted),
            "report": self.summary.report if self.summary else None,
            "remarks": [visible(remark) for remark in self.remarks],
            "error": self.error,
        }

    def text(self) -> str:
        """The night in one sentence."""
        if self.error is not None:
            # An error may quote a table's words, and chat services make links and calls of these signs.
            return f"promptmill {self.date}: {self.state}: {self.error.translate(_SIGNS)}"
        if self.summary is None:
            return f"promptmill {self.date}: {self.state}; {self.output}"
        totals = self.summary.totals
        return (
            f"promptmill {self.date}: {self.state}; {totals.planned} rows = {totals.committed} committed + "
            f"{totals.rejected} rejected, {totals.images} images; {self.summary.report}"
        )


def check_target(target: str) -> None:
    """Raises `UserError` for a place to which no summary is sent: plain http, or a directory."""
    parts = urlsplit(target)
    if parts.scheme == "http" and parts.hostname not in _HERE:
        raise UserError("nightly.summary is a webhook without https; its URL is a secret, so it must be https://")
    if target.endswith("/") and parts.scheme not in ("http", "https"):
        raise UserError("nightly.summary names a directory; name a file in it, such as s3://bucket/set/summary.json")


def deliver(target: str, night: Night, store: Store, *, sleep: Callable[[float], None] | None = None) -> None:
    """Puts the summary into a file, over what is there, or posts it.

    Args:
        store: of the output; a file of the same kind of place is written with its options.
        sleep: waits between two tries, for tests.

    Raises:
        UserError, JobError: it could not be delivered.
    """
    data = (json.dumps(night.document(), indent=1, ensure_ascii=False) + "\n").encode()
    where = fill(target, night.date, "nightly.summary")
    if urlsplit(where).scheme in ("http", "https"):
        _post(where, data, sleep)
        return
    parent, _, name = where.rpartition("/")
    place = neighbour(store, parent or ("/" if where.startswith("/") else "."))
    if place.local:
        place.request(lambda: replace_file(Path(place.path(name)), data), name, "write")
    else:
        place.replace(name, data)


class _Passing(Exception):
    """The webhook may take it the next time."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    # Another place was never named by the user, and a POST would arrive there as a GET.
    def redirect_request(self, *_: Any) -> None:
        return None


def _post(url: str, data: bytes, sleep: Callable[[float], None] | None) -> None:
    shown = f"{urlsplit(url).scheme}://{urlsplit(url).hostname}/***"
    opener = urllib.request.build_opener(_NoRedirects())

    def attempt() -> None:
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method="POST")
        try:
            with opener.open(request, timeout=_TIMEOUT) as answer:
                answer.read(1 << 16)
        except urllib.error.HTTPError as error:
            # Of its own words nothing is told: some services answer with the URL.
            told = f"the webhook at {shown} (nightly.summary) answered {error.code}"
            if error.code in _PASSING:
                raise _Passing(told) from None
            raise JobError(f"{told}; check its URL") from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise _Passing(
                f"the webhook at {shown} (nightly.summary) cannot be reached: {type(reason).__name__}"
            ) from None
        except ValueError:
            raise UserError("nightly.summary is no URL that can be asked; mend it") from None

    waits: dict[str, Any] = {} if sleep is None else {"sleep": sleep}
    retrying = Retrying(
        retry=retry_if_exception_type(_Passing),
        stop=stop_after_attempt(_TRIES),
        wait=wait_random_exponential(multiplier=1, max=30),
        reraise=True,
        **waits,
    )
    try:
        retrying(attempt)
    except _Passing as error:
        raise JobError(f"{error}, {_TRIES} times") from None


def sentence(error: BaseException) -> str:
    """What an error says, in one line without credentials and control characters, for the summary."""
    return visible(without_secrets(str(error)))[:500] or type(error).__name__
