"""From a training run to a model that one renders with: EMA generator, text tower, tokenizer, sizes and a card."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import jinja2
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import CLIPTextModel

from actors.errors import UserError
from actors.gan_model import GanModel
from actors.image_text import load_image_text
from actors.networks import GanConfig, GanGenerator
from actors.training_state import read_position
from pipeline.checkpoint_store import CheckpointStore, split_checkpoint_uri
from pipeline.storage import Store
from pipeline.train_log import LOG
from pipeline.train_record import read_run
from promptmill import __version__

_TEMPLATES = Path(__file__).parent / "templates"
_CPU_WATTS, _GPU_WATTS = 10.0, 400.0
"""What a core and a GPU are taken to draw under load, for the estimate in the card."""


def export(run_uri: str, target_uri: str, *, best: bool, options: dict[str, Any] | None = None) -> str:
    """Writes the model of a training run to a directory or URI; returns what was exported.

    Args:
        run_uri: ``OUTPUT`` (its newest checkpoint) or ``OUTPUT/checkpoints/NAME``.
        target_uri: where the model goes.
        best: the checkpoint with the best score, in place of the newest.
        options: fsspec options of both places.

    Raises:
        UserError: no such run or checkpoint, or one of another kind.
    """
    root, name = split_checkpoint_uri(run_uri)
    run = Store(root, options or {})
    body = read_run(run)
    with tempfile.TemporaryDirectory(prefix="promptmill-") as scratch:
        files, encoder = Path(scratch) / "state", Path(scratch) / "encoder"
        which = name or ("best" if best else "newest")
        saved = CheckpointStore(run, 1, lambda text: None).fetch(files, which)
        if saved is None:
            raise UserError(f"'{run.public()}' holds no whole checkpoint '{which}'; train first, or name another")
        for place in run.list("encoder"):
            data = run.read(place.name)
            encoder.mkdir(exist_ok=True)
            (encoder / place.name.rpartition("/")[2]).write_bytes(data or b"")
        model = _restore(files, encoder, body)
        made, target = Path(scratch) / "model", Store(target_uri, options or {})
        write_model(model, run, made)
        for path in sorted(made.rglob("*")):
            if path.is_file():
                target.replace(path.relative_to(made).as_posix(), path.read_bytes())
    return saved.name.rpartition("/")[2]


def write_model(model: GanModel, run: Store, directory: Path) -> None:
    """Writes a model and its card; what the card says of the training comes from the run's own record and log."""
    body, cost = read_run(run), training_cost(run)
    model.save(directory, training={"config": body["config"], "table": body["table"], "cost": cost})
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), undefined=jinja2.StrictUndefined,
                                     trim_blocks=True, lstrip_blocks=True, autoescape=False)  # fmt: skip
    lines = _lines(run)
    measured: dict[str, Any] = next((line for line in reversed(lines) if "r_precision" in line), {})
    card = environment.get_template("gan_card.md.j2").render(
        side=model.generator.config.resolution,
        networks=model.generator.config,
        parameters=sum(value.numel() for value in model.generator.parameters()),
        text_parameters=sum(value.numel() for value in model.text_encoder.parameters()),
        config=json.dumps(body["config"], indent=1, ensure_ascii=False),
        table=body["table"],
        encoder=body["encoder"],
        start=body.get("start", ""),
        cost=cost,
        measured=measured,
        version=__version__,
    )
    (directory / "README.md").write_text(card, encoding="utf-8")


def training_cost(run: Store) -> dict[str, float]:
    """Hours of training steps times workers' cores and GPUs, and the energy that this is taken to be, in kWh."""
    workers = read_run(run).get("workers", {})
    hours = sum(line.get("seconds", 0.0) for line in _lines(run)) / 3600
    cores = hours * workers.get("count", 1) * workers.get("cpus", 1.0)
    gpus = hours * workers.get("count", 1) * workers.get("gpus", 0.0)
    energy = (cores * _CPU_WATTS + gpus * _GPU_WATTS) / 1000
    return {name: round(value, 3) for name, value in
            {"core_hours": cores, "gpu_hours": gpus, "kwh_estimate": energy}.items()}  # fmt: skip


def _restore(files: Path, encoder: Path, body: dict[str, Any]) -> GanModel:
    if not (files / "generator.safetensors").is_file():
        raise UserError("this is a run of train-encoder: its OUTPUT/model is the encoder already")
    source = load_image_text(encoder)
    config = source.model.config.text_config
    sizes = {**body["config"]["networks"], "widths": tuple(body["config"]["networks"]["widths"])}
    name = "average" if read_position(files).phase == "adversarial" else "generator"
    try:
        generator = GanGenerator(GanConfig(text_dim=config.hidden_size, **sizes))
        generator.load_state_dict(load_file(files / f"{name}.safetensors"))
        text = CLIPTextModel(config)
        text.load_state_dict(load_file(files / "text.safetensors"))
    except (OSError, RuntimeError, TypeError, SafetensorError) as error:
        raise UserError(
            f"the checkpoint does not fit its run's config: {' '.join(str(error).split())[:160]}"
        ) from error
    for module in (generator, text):
        module.requires_grad_(False).eval().to(torch.float32)
    return GanModel(generator, text, source.tokenizer)


def _lines(run: Store) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.read(LOG) or b"").decode().splitlines()]
