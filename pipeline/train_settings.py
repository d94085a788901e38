"""The parts of a training configuration that all training jobs share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.config_base import Section, image_uris, max_image_pixels, option, place, server_side_encryption
from pipeline.config_running import Cluster
from pipeline.server_side_encryption import Sse

if TYPE_CHECKING:
    from actors.augment import Augmentation


class Data(Section):
    """The captioned image table."""

    uri: str = option(
        "emoji.parquet", "Parquet file, directory or glob, image folder with metadata, tars, or a promptmill output"
    )
    image: str = option("image", "column that holds the pictures: bytes, {bytes, path}, or a URI")
    captions: list[str] | None = option(
        None,
        "columns that hold captions; null = caption, caption_*, captions, text or description",
    )
    split: str | None = option(None, "rows whose column `split` says so; null = all rows")
    lanes: int = option(8, "ranges that a batch is drawn from; the number of workers must divide it", ge=1)
    readers: int = place(1, "actors that read and decode for each worker", ge=1)
    window: int = option(1024, "samples of a lane that are shuffled together", ge=1)
    options: dict[str, Any] = place({}, "fsspec options of the table's place; credentials belong in the environment")
    sse: Sse | None = server_side_encryption()
    image_uris: list[str] = image_uris()
    max_image_pixels: int = max_image_pixels()


class Augment(Section):
    """Changes of the training pictures; each number is what one standard deviation does, 0 leaves it out."""

    shift: float = option(0.03, "shift, as a part of the side", ge=0, le=0.5)
    scale: float = option(0.06, "size, as a logarithm", ge=0, le=1)
    turn: float = option(4.0, "turn, in degrees", ge=0, le=180)
    brightness: float = option(0.05, "gain of the darkness", ge=0, le=0.5)
    warmth: float = option(0.04, "shift between blue and red", ge=0, le=0.5)
    flip: bool = option(False, "mirror half of them: only where left and right mean nothing (no text, no flags)")

    def settings(self) -> Augmentation:
        """The same for `actors.augment`."""
        from actors.augment import Augmentation

        return Augmentation(**self.model_dump())


class Workers(Section):
    """The training workers (Ray Train, DDP)."""

    count: int = place(1, "workers; it must divide data.lanes", ge=1)
    cpus: float = place(1.0, "CPUs reserved for one worker; its threads follow", gt=0)
    gpus: float = place(0.0, "GPUs reserved for one worker; 0 = train on CPUs (gloo instead of nccl)", ge=0)
    resources: dict[str, float] = place({}, "custom Ray resources reserved for one worker, as {name: amount}")
    accelerator_type: str | None = place(None, "GPU model that a worker needs, as Ray names it, e.g. A100 or L4")
    max_failures: int = place(3, "times that lost workers are replaced, from the last checkpoint; -1 = always", ge=-1)


class Output(Section):
    """Where checkpoints, logs, sheets and the finished model go."""

    uri: str = place("out/training", "directory, local or any fsspec URI (s3://bucket/run)")
    options: dict[str, Any] = place({}, "fsspec options of that file system; credentials belong in the environment")
    sse: Sse | None = server_side_encryption()
    unconditional: bool = place(False, "you promise a single writer, for a store without conditional puts")
    attempts: int = place(8, "tries of one storage request on transient errors (backoff with jitter)", ge=1, le=100)
    max_backoff: float = place(20.0, "seconds between two tries at most", gt=0)
    keep_last: int = place(2, "newest checkpoints kept; the best one is kept besides", ge=1)


class Cadence(Section):
    """How often, in steps."""

    log: int = place(20, "steps between two lines of the log", ge=1)
    checkpoint: int = place(200, "steps between two checkpoints", ge=1)
    profile: bool = place(False, "write a profiler trace of a few steps of each phase to OUTPUT/profile")
    watch: int = place(500, "steps between two sample sheets and measurements", ge=1)


class WatchTable(Section):
    """What is measured every ``cadence.watch`` steps."""

    pictures: int = place(400, "pictures of the table that are measured against; 0 = no measures", ge=0)
    split: str | None = place(None, "split they come from; null = that of training")


class TrainingConfig(Section):
    """What every training job has."""

    seed: int = option(0, "seed of weights, order, captions, changes and noise", ge=0, lt=2**63)
    data: Data = option(Data(), "the captioned image table")
    augment: Augment = option(Augment(), "changes of the training pictures")
    workers: Workers = place(Workers(), "the training workers")
    output: Output = place(Output(), "where everything goes")
    cadence: Cadence = place(Cadence(), "how often")
    cluster: Cluster = place(Cluster(), "the Ray cluster")
