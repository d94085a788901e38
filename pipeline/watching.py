"""What each process of a run is told about how it is watched, and how it begins to be."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import instruments


@dataclass(frozen=True)
class Watching:
    """Picklable; goes to every actor and reading task.

    Args:
        run: what the run is called in metrics: the beginning of its fingerprint.
    """

    run: str

    def begin(self) -> None:
        """Has this process watched; a second call changes nothing."""
        instruments.start(self.run)


def run_name(fingerprint: str) -> str:
    """The short name of a run."""
    return fingerprint[:12]
