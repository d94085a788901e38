"""A training run on Ray Train: the driver starts workers, which do the work of `pipeline.train_worker`.

Driver and Ray Train's controller know of models no more than their names: what a task needs of transformers is
imported where a worker comes to it, or each of the two would import it for seconds before a worker starts.

Ray Train brings the process group (gloo or nccl), replaces lost workers, and is told of each checkpoint by
``ray.train.report``; the checkpoints themselves go through `pipeline.checkpoint_store`, which writes a manifest last
and verifies it when it resumes.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.exceptions import OutOfMemoryError, RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from actors.errors import JobError
from actors.loading import loading
from actors.seeds import derive_seed
from pipeline.arrow_place import arrow_filesystem
from pipeline.captioned import CaptionedTable, open_captioned
from pipeline.sample_order import SampleOrder
from pipeline.sample_reader import SampleReader, fixed_length
from pipeline.server_side_encryption import with_sse
from pipeline.storage import Store
from pipeline.train_board import TrainBoard
from pipeline.train_record import is_finished
from pipeline.train_settings import TrainingConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from actors.training_loop import PhasePlan, Trainee, Values
    from pipeline.train_log import TrainLog

EXPERIMENT = "checkpoints"
"""Where the checkpoints of a run lie under its output."""
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

    def sizes(self) -> tuple[PreTrainedTokenizerBase, int, int]:
        """Tokenizer, side of the pictures in pixels, tokens of a caption at most."""
        raise NotImplementedError

    def watch(self, trainee: Trainee, log: TrainLog, phase: PhasePlan, step: int) -> Values:
        """Sheets and measurements, made by the first worker alone; ``score`` among them marks the best checkpoint."""
        raise NotImplementedError

    def finish(self, trainee: Trainee, store: Store) -> dict[str, int]:
        """Writes the finished model, by the first worker alone; returns what `put_files` does."""
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


def put_files(store: Store, directory: Path, under: str) -> dict[str, int]:
    """Copies the files of a local directory to OUTPUT/UNDER; returns their sizes in bytes by their names there."""
    sizes = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        name, data = f"{under}/{path.relative_to(directory).as_posix()}", path.read_bytes()
        store.replace(name, data)
        sizes[name] = len(data)
    return sizes


def run_training(task: TrainingTask, *, quiet: bool) -> None:
    """Trains, or goes on training, until all phases are done; a finished run whose model is whole starts no worker.

    Raises:
        JobError: training diverged, or workers were lost more often than ``workers.max_failures``.
        UserError: what the workers found wrong with table, config or place.
    """
    store, workers = open_output(task.config), task.config.workers
    if is_finished(store):
        return
    # Ray Train keeps a snapshot of its own beside the checkpoints and would trust it more than our manifests.
    store.remove(f"{EXPERIMENT}/checkpoint_manager_snapshot.json")
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    os.environ.setdefault(*_CONTROLLER_LOOKS)
    trainer = TorchTrainer(
        _work,
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
            name=EXPERIMENT,
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


def _work(told: dict[str, Any]) -> None:
    with loading():
        from pipeline.train_worker import work
    work(told["task"], told["directory"])


def _plain(error: Exception) -> JobError:
    """One sentence out of the errors of all workers."""
    text = str(error).strip().splitlines()
    last = next((line for line in reversed(text) if line.strip()), type(error).__name__)
    return JobError(f"training failed: {last.strip()[:300]}; the same command goes on from the last checkpoint")
