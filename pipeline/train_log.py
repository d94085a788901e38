"""What a training run writes down: log.jsonl and TensorBoard events, kept beside the checkpoints on any store."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from pipeline.storage import Store
from pipeline.train_report import SHEETS, put_train_report

LOG = "log.jsonl"
_EVENTS = "tensorboard"


class TrainLog:
    """The log of one run; only the first worker has one.

    Lines later than the checkpoint that a run resumes from are dropped: those steps are made, and written, again.

    Args:
        store: the output's root.
        phases: names of the phases in order.
        resumed: (phase, step) of the checkpoint, or None for a new run.
    """

    def __init__(self, store: Store, phases: list[str], resumed: tuple[str, int] | None) -> None:
        self._store, self._phases = store, phases
        lines = (store.read(LOG) or b"").decode().splitlines() if resumed else []
        limit = (phases.index(resumed[0]), resumed[1]) if resumed else (0, 0)
        self._lines = [line for line in lines if self._place(line) <= limit]
        self._scratch = tempfile.TemporaryDirectory(prefix="promptmill-")
        self._writer = SummaryWriter(self._scratch.name)

    def add(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """One line, and one point of each curve."""
        line = {"phase": phase, "step": step, **{name: float(f"{value:.6g}") for name, value in values.items()}}
        self._lines.append(json.dumps(line))
        for name, value in values.items():
            self._writer.add_scalar(f"{phase}/{name}", value, step)

    def sheet(self, phase: str, step: int, picture: Image.Image) -> None:
        """Keeps a sample sheet, named after phase and step, and among TensorBoard's images."""
        sink = io.BytesIO()
        picture.save(sink, "PNG", optimize=True)
        self._store.replace(f"{SHEETS}/{phase}-{step:08d}.png", sink.getvalue())
        self._writer.add_image(f"{phase}/sheet", np.asarray(picture), step, dataformats="HWC")

    def flush(self) -> None:
        """Puts what there is onto the store, and draws the page anew."""
        self._store.replace(LOG, "".join(line + "\n" for line in self._lines).encode())
        self._writer.flush()
        for path in sorted(Path(self._scratch.name).iterdir()):
            self._store.replace(f"{_EVENTS}/{path.name}", path.read_bytes())
        put_train_report(self._store, [json.loads(line) for line in self._lines])

    def close(self) -> None:
        """Flushes and ends the event file."""
        self.flush()
        self._writer.close()
        self._scratch.cleanup()

    def _place(self, line: str) -> tuple[int, int]:
        told = json.loads(line)
        return self._phases.index(told["phase"]), told["step"]
