"""Commands that train models, measure what they draw, and hand them on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli_words import Address, ConfigPath, Debug, Overrides, Quiet, Sse, Unsafe, config_command, split

training = typer.Typer()


@training.command("train-encoder", cls=config_command("pipeline.encoder_config", "TrainEncoderConfig"))
def train_encoder(
    config: ConfigPath = None,
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="start over: delete the run's checkpoints")] = False,
    address: Address = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train the image-text encoder on captioned pictures, or go on from the last checkpoint."""
    from jobs.train_encoder import run

    run(*split(config, overrides), fresh=fresh, address=address, quiet=quiet, debug=debug)


@training.command("train-gan", cls=config_command("pipeline.gan_config", "TrainGanConfig"))
def train_gan(
    config: ConfigPath = None,
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="start over: delete the run's checkpoints")] = False,
    address: Address = None,
    quiet: Quiet = False,
    unsafe: Unsafe = False,
    debug: Debug = False,
) -> None:
    """Train the text-conditional GAN on captioned pictures, or go on from the last checkpoint."""
    from jobs.train_gan import run

    run(*split(config, overrides, unsafe), fresh=fresh, address=address, quiet=quiet, debug=debug)


@training.command("hard-examples")
def hard_examples(
    images: Annotated[str, typer.Argument(metavar="OUTPUT", help="scored images: an output, or OUTPUT/best of refine")],
    pictures: Annotated[str, typer.Argument(metavar="PICTURES", help="captioned table of real pictures")],
    target: Annotated[Path, typer.Argument(metavar="HARD.parquet", help="table to write")],
    encoder: Annotated[str, typer.Option(help="URI of the image-text encoder")] = "package:promptmill/encoder",
    split: Annotated[str | None, typer.Option(help="rows of PICTURES whose column split says so")] = None,
    share: Annotated[float, typer.Option(min=0.0, max=1.0, help="share of the prompts, the lowest")] = 0.3,
    others: Annotated[float, typer.Option(min=0.0, help="weight of pictures that no hard prompt names")] = 0.25,
    debug: Debug = False,
) -> None:
    """Write the real pictures of what a generator draws worst as a captioned table for train-gan."""
    from jobs.hard_examples import run

    run(images, pictures, target, encoder, split, share, others)


@training.command(cls=config_command("pipeline.evaluate_config", "EvaluateConfig"))
def evaluate(
    config: ConfigPath = None,
    overrides: Overrides = None,
    compare: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="compare two evaluations; no other argument then")
    ] = None,
    address: Address = None,
    quiet: Quiet = False,
    unsafe: Unsafe = False,
    debug: Debug = False,
) -> None:
    """Measure generated images: against a reference, against their words, and among one another."""
    from jobs.evaluate import run, run_compare

    if compare is not None:
        run_compare(*compare)
    else:
        run(*split(config, overrides, unsafe), address=address, quiet=quiet, debug=debug)


@training.command()
def export(
    checkpoint: Annotated[str, typer.Argument(help="a run's OUTPUT, or OUTPUT/checkpoints/NAME")],
    out: Annotated[str, typer.Argument(help="directory or URI of the model")],
    best: Annotated[bool, typer.Option("--best", help="the checkpoint with the best score, not the newest")] = False,
    sse: Sse = None,
    debug: Debug = False,
) -> None:
    """Make a model directory for generate.model out of a GAN's checkpoint."""
    from jobs.export import run

    run(checkpoint, out, best=best, sse=sse)
