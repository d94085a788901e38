"""A training run on Ray Train: the driver starts workers, the workers run `actors.training_loop` over Ray Data.

Ray Train brings the process group (gloo or nccl), replaces lost workers, and is told of each checkpoint by
``ray.train.report``; the checkpoints themselves go through `pipeline.checkpoint_store`, which writes a manifest last
and verifies it when it resumes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.exceptions import OutOfMemoryError, RayError
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError
from transformers import PreTrainedTokenizerFast

from actors.device import use_resources
from actors.errors import JobError, PromptmillError, UserError
from actors.seeds import derive_seed
from actors.training_batch import TrainingBatch
from actors.training_loop import Hooks, PhasePlan, Trainee, Values, train
from actors.training_state import Position, read_position, write_state
from pipeline.arrow_place import arrow_filesystem
from pipeline.captioned import CaptionedTable, open_captioned
from pipeline.checkpoint_store import CheckpointStore
from pipeline.sample_order import SampleOrder
from pipeline.sample_reader import SampleReader, fixed_length
from pipeline.sample_stream import stream
from pipeline.server_side_encryption import with_sse
from pipeline.storage import Store
from pipeline.train_board import TrainBoard
from pipeline.train_log import TrainLog
from pipeline.train_profile import profiled
from pipeline.train_settings import TrainingConfig

_EXPERIMENT = "checkpoints"
# Ray Train's controller takes a checkpoint's report, and sees that workers are done, when it looks; by default every
# 2 s, for which a worker that has saved twice waits.
_CONTROLLER_LOOKS = ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")


@dataclass
class TrainingTask:
    """What a worker is told to train; subclasses say what, and are picklable.

    Attributes:
        config: of the run.
        board: where the first worker tells how far it is.
        table: the captioned pictures.
    """

    config: TrainingConfig
    board: TrainBoard
    table: CaptionedTable

    def build(self, device: torch.device) -> Trainee:
        """The models and their losses, on the worker's device, after the process group is up."""
        raise NotImplementedError

    def reader(self, phase: PhasePlan) -> SampleReader:
        """The samples of a phase: all pictures, as often as their weights say."""
        data, fragments = self.config.data, self.table.fragments
        seed = derive_seed(self.config.seed, "order", phase.name)
        rows = tuple(fragment.rows for fragment in fragments)
        weights = tuple(fragment.weights for fragment in fragments)
        order = SampleOrder(rows, weights, phase.batch, data.lanes, data.window, seed)
        tokenizer, resolution, max_tokens = self.sizes()
        return SampleReader(self.table, order, fixed_length(tokenizer, max_tokens), resolution, self.config.seed)

    def sizes(self) -> tuple[PreTrainedTokenizerFast, int, int]:
        """Tokenizer, side of the pictures in pixels, tokens of a caption at most."""
        raise NotImplementedError

    def watch(self, trainee: Trainee, log: TrainLog, phase: PhasePlan, step: int) -> Values:
        """Sheets and measurements, made by the first worker alone; ``score`` among them marks the best checkpoint."""
        raise NotImplementedError

    def finish(self, trainee: Trainee, store: Store) -> None:
        """Writes the finished model, by the first worker alone."""
        raise NotImplementedError


def open_output(config: TrainingConfig) -> Store:
    """The place of a run."""
    output = config.output
    options = with_sse(output.options, output.sse)
    return Store(output.uri, options, output.unconditional, output.attempts, output.max_backoff)


def open_split(config: TrainingConfig, split: str | None) -> CaptionedTable:
    """The rows of one split of a run's table; all of them for None."""
    data = config.data
    return open_captioned(
        data.uri, captions=data.captions or None, image=data.image, split=split,
        options=with_sse(data.options, data.sse), image_uris=data.image_uris, max_pixels=data.max_image_pixels,
    )  # fmt: skip


def run_training(task: TrainingTask, *, quiet: bool) -> None:
    """Trains, or goes on training, until all phases are done.

    Raises:
        JobError: training diverged, or workers were lost more often than ``workers.max_failures``.
        UserError: what the workers found wrong with table, config or place.
    """
    store, workers = open_output(task.config), task.config.workers
    # Ray Train keeps a snapshot of its own beside the checkpoints and would trust it more than our manifests.
    store.remove(f"{_EXPERIMENT}/checkpoint_manager_snapshot.json")
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    os.environ.setdefault(*_CONTROLLER_LOOKS)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"task": task, "directory": str(Path.cwd())},
        torch_config=TorchConfig(backend="nccl" if workers.gpus > 0 else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpus > 0,
            resources_per_worker={"CPU": workers.cpus, **workers.resources}
            | ({"GPU": workers.gpus} if workers.gpus > 0 else {}),
            accelerator_type=workers.accelerator_type,
        ),
        run_config=RunConfig(
            name=_EXPERIMENT,
            storage_path=str(Path(store.root).absolute()) if store.local else store.root,
            storage_filesystem=None if store.local else arrow_filesystem(store),
            failure_config=FailureConfig(max_failures=workers.max_failures),
        ),
    )
    try:
        with task.board.shown(quiet=quiet):
            trainer.fit()
    except OutOfMemoryError as error:
        # Ray ends the controller too, which no FailureConfig replaces.
        raise JobError(
            "a machine's memory was full and Ray ended the run's processes; free memory there, or ask for fewer "
            "workers or smaller batches; the same command goes on from the last checkpoint"
        ) from error
    except (TrainingFailedError, RayError) as error:
        raise task.board.stopped() or _plain(error) from error
    stopped = task.board.stopped()
    if stopped is not None:
        raise stopped


def _worker(told: dict[str, Any]) -> None:
    """Runs in each training worker."""
    task: TrainingTask = told["task"]
    # Ray Train moves its workers into a directory of its own: relative paths are the user's, not Ray's.
    with contextlib.suppress(FileNotFoundError):
        os.chdir(told["directory"])
    config, context = task.config, ray.train.get_context()
    rank, count = context.get_world_rank(), context.get_world_size()
    use_resources(config.workers.cpus, config.workers.gpus)
    device = get_device()
    store = open_output(config)
    checkpoints = CheckpointStore(store, config.output.keep_last, logging.getLogger("promptmill").warning)
    try:
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
            raise JobError(f"{stopped}; the last checkpoint under '{store.public(_EXPERIMENT)}' is good")
        if rank == 0:
            task.finish(trainee, store)
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
    """The error without the traceback that Ray glues to those of its tasks."""
    cause = getattr(error, "cause", error)
    kind = UserError if isinstance(cause, UserError) else JobError
    return kind(str(cause))


def _plain(error: Exception) -> JobError:
    """One sentence out of the errors of all workers."""
    text = str(error).strip().splitlines()
    last = next((line for line in reversed(text) if line.strip()), type(error).__name__)
    return JobError(f"training failed: {last.strip()[:300]}; the same command goes on from the last checkpoint")
