"""Training samples through Ray Data: decoded pictures and tokenised captions, in the order of the run.

A reader actor serves a run of steps for one worker: it reads the rows that `SampleOrder` names, decodes them and draws
a caption for each, so that decoding runs beside training and memory holds a few runs alone. The stream is made inside
the training worker, which alone knows the step that it resumes from; its order is kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import ray

from actors.training_batch import TrainingBatch
from pipeline.sample_reader import ReadSteps, SampleReader
from pipeline.unhurried import Unhurried

_STEPS_A_RUN = 16


def stream(
    reader: SampleReader, first: int, last: int, *, rank: int, workers: int, readers: int = 1, span: int = 4096
) -> Iterator[TrainingBatch]:
    """The batches of steps ``first`` to ``last`` for one of ``workers``, one a step.

    Args:
        reader: what is read.
        first, last: steps, the last one excluded.
        rank, workers: which worker's share.
        readers: actors that read and decode beside the training worker.
        span: steps planned at once: a run may have millions.
    """
    lanes = reader.order.worker_lanes(rank, workers)
    batch = reader.order.batch // workers
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.custom_execution_callback_classes = [Unhurried]
    while first < last:
        stop = min(first + span, last)
        runs = [
            pa.table({"first": [begin], "steps": [min(_STEPS_A_RUN, stop - begin)]})
            for begin in range(first, stop, _STEPS_A_RUN)
        ]
        # No CPUs of their own: the training worker may hold them all, and reading would wait for them for ever.
        dataset = ray.data.from_blocks(runs).map_batches(
            ReadSteps,
            fn_constructor_args=(reader, lanes),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0,
            compute=ray.data.ActorPoolStrategy(size=min(readers, len(runs)), max_tasks_in_flight_per_actor=2),
        )
        for arrays in dataset.iter_torch_batches(batch_size=batch, prefetch_batches=2, drop_last=False):
            yield TrainingBatch(**arrays)
        first = stop
