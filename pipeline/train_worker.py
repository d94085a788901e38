"""What each worker of a training run does: `actors.training_loop` over Ray Data, between checkpoints that it finds."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import ray.train
import torch
from ray.train import Checkpoint
from ray.train.torch import get_device

from actors.device import use_resources
from actors.errors import JobError, PromptmillError, UserError
from actors.loading import loading
from actors.training_batch import TrainingBatch
from actors.training_loop import Hooks, PhasePlan, Trainee, Values, train
from actors.training_state import Position, read_position, write_state
from pipeline.checkpoint_store import CheckpointStore
from pipeline.sample_stream import stream
from pipeline.storage import Store
from pipeline.train_job import EXPERIMENT, TrainingTask, open_output
from pipeline.train_log import TrainLog
from pipeline.train_profile import profiled
from pipeline.train_record import note_finished


def work(task: TrainingTask, directory: str) -> None:
    """Trains, as one of the workers of a run; what went wrong for good is told to the task's board.

    Args:
        task: what is trained.
        directory: the working directory of the driver.
    """
    # Ray Train moves its workers into a directory of its own: relative paths are the user's, not Ray's.
    with contextlib.suppress(FileNotFoundError):
        os.chdir(directory)
    config, context = task.config, ray.train.get_context()
    rank, count = context.get_world_rank(), context.get_world_size()
    use_resources(config.workers.cpus, config.workers.gpus)
    device = get_device()
    store = open_output(config)
    checkpoints = CheckpointStore(store, config.output.keep_last, logging.getLogger("promptmill").warning)
    try:
        with loading():
            trainee = task.build(device)
        with contextlib.ExitStack() as stack:
            files = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="promptmill-")))
            found = checkpoints.latest(files)
            state = (files, read_position(files)) if found else None
            names = [phase.name for phase in trainee.phases]
            log = None
            if rank == 0:
                log = TrainLog(store, names, (state[1].phase, state[1].step) if state else None)
                stack.callback(log.close)
            hooks = _Worker(task, trainee, store, checkpoints, log, rank, count).hooks()
            stopped = train(trainee, hooks, seed=config.seed, device=device, state=state)
        if stopped is not None:
            raise JobError(f"{stopped}; the last checkpoint under '{store.public(EXPERIMENT)}' is good")
        if rank == 0:
            note_finished(store, task.finish(trainee, store))
    except PromptmillError as error:
        # Fresh workers would meet the same: the worker returns as if all were well, so that none is started.
        task.board.stop(_bare(error))


class _Worker:
    """One worker's hooks."""

    def __init__(
        self,
        task: TrainingTask,
        trainee: Trainee,
        store: Store,
        checkpoints: CheckpointStore,
        log: TrainLog | None,
        rank: int,
        workers: int,
    ) -> None:
        self._task, self._trainee, self._store, self._checkpoints = task, trainee, store, checkpoints
        self._log, self._rank, self._workers = log, rank, workers
        self._clock = (time.monotonic(), 0)

    def hooks(self) -> Hooks:
        """See `actors.training_loop`."""
        cadence = self._task.config.cadence
        return Hooks(
            self._batches, self._note, self._save, _preempted, self._watch,
            log_every=cadence.log, save_every=cadence.checkpoint, watch_every=cadence.watch,
        )  # fmt: skip

    def _batches(self, phase: PhasePlan, first: int) -> Iterator[TrainingBatch]:
        self._clock = (time.monotonic(), first)
        config = self._task.config
        batches = stream(
            self._task.reader(phase), first, phase.steps, rank=self._rank, workers=self._workers,
            readers=config.data.readers,
        )  # fmt: skip
        profiling = config.cadence.profile and self._rank == 0
        return profiled(batches, self._store, phase.name) if profiling else batches

    def _note(self, phase: PhasePlan, step: int, values: Values) -> None:
        if self._log is None:
            return
        now, (before, at) = time.monotonic(), self._clock
        self._clock = (now, step)
        speed = (step - at) * phase.batch / max(now - before, 1e-9)
        told = {"samples_per_s": speed, "seconds": now - before, "memory_mib": _memory()}
        self._log.add(phase.name, step, {**values, **told})
        shown = {name: values[name] for name in list(values)[:2]}
        left = (phase.steps - step) * phase.batch / max(speed, 1e-9)
        self._task.board.tell(phase.name, step, phase.steps, {**shown, "samples/s": speed}, left)

    def _watch(self, phase: PhasePlan, step: int) -> Values:
        # Measuring is no training: the clock stands still, so that samples/s and costs tell of steps alone.
        begun = time.monotonic()
        found = self._task.watch(self._trainee, self._log, phase, step) if self._log is not None else {}
        self._clock = (self._clock[0] + time.monotonic() - begun, self._clock[1])
        return found

    def _save(self, position: Position, optimisers: Mapping[str, torch.optim.Optimizer], values: Values) -> None:
        if self._rank != 0:
            ray.train.report({"step": position.step}, None)
            return
        if self._log is not None:
            # Before the checkpoint: whoever resumes from it finds the lines of all steps before.
            self._log.flush()
        names = [phase.name for phase in self._trainee.phases]
        order = (names.index(position.phase), position.step)
        storage = ray.train.get_context().get_storage()

        def upload(local: Checkpoint, name: str) -> Checkpoint:
            saved = self._checkpoints.put(Path(local.path), position.phase, order, values.get("score"))
            path = f"{storage.experiment_fs_path}/{saved.name.rpartition('/')[2]}"
            return Checkpoint(path, storage.storage_filesystem)

        with self._store.scratch() as directory:
            write_state(directory, position, self._trainee.modules(), optimisers)
            ray.train.report(
                {"step": position.step},
                checkpoint=Checkpoint.from_directory(str(directory)),
                checkpoint_upload_fn=upload,
                delete_local_checkpoint_after_upload=False,
            )


def _memory() -> float:
    """MiB that this process holds at most so far: of the GPU where it has one, else of the machine."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _preempted() -> bool:
    return ray.train.get_preemption_info() is not None


def _bare(error: PromptmillError) -> PromptmillError:
    """The error without what Ray glues to those of its tasks: a traceback, and Ray Data's advice on the lines below."""
    cause = getattr(error, "cause", error)
    kind = UserError if isinstance(cause, UserError) else JobError
    return kind(str(cause).partition("\n")[0])
