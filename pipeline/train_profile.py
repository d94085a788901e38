"""A profiler trace of a few training steps, in the format of chrome://tracing and Perfetto."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from actors.training_batch import TrainingBatch
from pipeline.storage import Store

_WAIT, _WARM, _ACTIVE = 3, 1, 4


def profiled(batches: Iterator[TrainingBatch], store: Store, phase: str) -> Iterator[TrainingBatch]:
    """The same batches; what is done with the 5th to 8th of them is written to OUTPUT/profile/PHASE.json.gz."""

    def keep(profiler: profile) -> None:
        with tempfile.TemporaryDirectory(prefix="promptmill-") as directory:
            path = Path(directory) / "trace.json.gz"
            profiler.export_chrome_trace(str(path))
            store.replace(f"profile/{phase}.json.gz", path.read_bytes())

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    plan = schedule(wait=_WAIT, warmup=_WARM, active=_ACTIVE, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=keep, record_shapes=True) as profiler:
        for batch in batches:
            yield batch
            profiler.step()
