"""What a GAN's training run begins with: networks of another run's checkpoint, found once and then known by content."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from actors.errors import UserError
from pipeline.checkpoint_store import CheckpointStore, SavedCheckpoint, split_checkpoint_uri
from pipeline.storage import Store
from pipeline.train_record import read_run

if TYPE_CHECKING:
    from actors.gan_trainer import GanTrainer

_GAME = "adversarial"


@dataclass(frozen=True)
class Start:
    """A checkpoint of another run.

    Attributes:
        root: URI of the run.
        name: of the checkpoint under it.
        sha256: hash over the digests of the networks' files.
        coder: whether an autoencoder was trained there, or where that run began.
        game: whether the game had begun there: D is then a trained one.
        options: fsspec options of the place.
    """

    root: str
    name: str
    sha256: str
    coder: bool
    game: bool
    options: dict[str, Any]

    def load(self, trainer: GanTrainer) -> None:
        """Puts the checkpoint's weights into a trainer; D's only where the game had begun there.

        Raises:
            UserError: the checkpoint is damaged, or its networks have other sizes.
        """
        from actors.training_state import read_modules

        modules = dict(trainer.modules())
        with tempfile.TemporaryDirectory(prefix="promptmill-") as scratch:
            files = Path(scratch)
            if _checkpoints(self.root, self.options).fetch(files, self.name) is None:
                raise UserError(f"the checkpoint start='{self.root}/checkpoints/{self.name}' is damaged; name another")
            if not self.game:
                modules.pop("critic")
            try:
                read_modules(files, modules)
            except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
                raise UserError(
                    f"the networks of start='{self.root}' have other sizes: give this run the same `networks`"
                ) from error


def find_start(uri: str, encoder_sha256: str, options: dict[str, Any]) -> Start:
    """Which checkpoint a URI means now.

    Args:
        uri: ``RUN`` (its newest checkpoint) or ``RUN/checkpoints/NAME``.
        encoder_sha256: of the run that is to begin; words mean the same only where the encoder is the same.
        options: fsspec options of the place.

    Raises:
        UserError: no such run or checkpoint, or one with another encoder.
    """
    root, name = split_checkpoint_uri(uri)
    body = read_run(Store(root, options))
    if body.get("encoder") != encoder_sha256:
        raise UserError(f"start='{uri}' was trained with another encoder: give this run that one, as in {root}/encoder")
    known = _checkpoints(root, options).known(name or "newest")
    if not known:
        raise UserError(f"start='{uri}' holds no whole checkpoint; train there first, or name another")
    coder = body.get("coder", bool(body["config"].get("autoencoder", {}).get("steps")))
    name = known[0].name.rpartition("/")[2]
    return Start(root, name, _content(known[0]), coder, name.startswith(f"{_GAME}-"), options)


def _checkpoints(root: str, options: dict[str, Any]) -> CheckpointStore:
    return CheckpointStore(Store(root, options), 1, logging.getLogger("promptmill").warning)


def _content(saved: SavedCheckpoint) -> str:
    weights = {name: digest.sha256 for name, digest in saved.files.items() if not name.startswith("optimiser-")}
    return hashlib.sha256(repr(sorted(weights.items())).encode()).hexdigest()
