"""How fast shards were made: notes beside the records for estimates and the report, never part of the dataset."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from actors.errors import PromptmillError
from pipeline.storage import Store

TIMINGS = "_run/timings"


@dataclass(frozen=True)
class Rates:
    """Sums over the shards that have a timing; seconds are of one actor of the stage, not of the clock on the wall."""

    shards: int
    rows: int
    images: int
    tokens: int
    expand_seconds: float
    render_seconds: float
    write_seconds: float

    @property
    def stages(self) -> dict[str, float]:
        """Seconds that actors worked, by stage."""
        return {"describe": self.expand_seconds, "render": self.render_seconds, "write": self.write_seconds}

    def sentence(self) -> str:
        """Tokens and images a second of one actor, and each stage's share of the actors' time."""
        whole = sum(self.stages.values()) or 1.0
        speeds = {"tokens": (self.tokens, self.expand_seconds), "images rendered": (self.images, self.render_seconds)}
        speed = [f"{count / time:.1f} {what} a second" for what, (count, time) in speeds.items() if count and time]
        shares = ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in self.stages.items() if seconds)
        speed = [f"{', '.join(speed)} by one actor"] if speed else []
        return "; ".join([*speed, f"of the actors' time: {shares or 'none measured'}"])


def put_timing(store: Store, shard: int, ids: str = "", **values: float) -> None:
    """Notes one shard's timing, and with it which ids it holds (`pipeline.id_notes`).

    A note that cannot be written is no reason to fail a shard that is committed.
    """
    note: dict[str, float | str] = {name: round(value, 3) for name, value in values.items()}
    if ids:
        note["ids"] = ids
    with contextlib.suppress(PromptmillError):
        store.replace(timing_name(shard), json.dumps(note, sort_keys=True).encode())


def timing_name(shard: int) -> str:
    """The name of a shard's note."""
    return f"{TIMINGS}/{shard:06d}.json"


def read_rates(store: Store, most: int = 1000) -> Rates | None:
    """The rates measured in this output's earlier shards (a sample of at most ``most``); None where there are none."""
    names = [entry.name for entry in store.list(TIMINGS)]
    names = names[:: max(1, len(names) // most)][:most]
    with ThreadPoolExecutor(16) as pool:
        found = [json.loads(data) for data in pool.map(store.read, names) if data]
    if not found:
        return None
    return Rates(
        shards=len(found),
        rows=sum(int(f["rows"]) for f in found),
        images=sum(int(f["images"]) for f in found),
        tokens=sum(int(f["tokens"]) for f in found),
        expand_seconds=sum(f["expand_seconds"] for f in found),
        render_seconds=sum(f["render_seconds"] for f in found),
        write_seconds=sum(f["write_seconds"] for f in found),
    )
