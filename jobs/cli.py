"""The command line: one sentence an error; status 2 for the user's mistakes, 1 for failures, 130/143 for signals."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli_models import models
from jobs.cli_training import training
from jobs.cli_words import (
    Address,
    ConfigPath,
    Date,
    Debug,
    LogPrompts,
    Overrides,
    Quiet,
    Sse,
    Unsafe,
    config_command,
    split,
)
from jobs.printing import tell
from pipeline import logs
from pipeline.inert_text import printable
from pipeline.without_secrets import without_secrets

app = typer.Typer(
    name="promptmill",
    help="A table of prompts in; a sharded, documented, reproducible image dataset out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


@app.command(cls=config_command("pipeline.config", "SynthesizeConfig"))
def synthesize(
    config: ConfigPath = None,
    overrides: Overrides = None,
    date: Date = None,
    address: Address = None,
    quiet: Quiet = False,
    unsafe: Unsafe = False,
    log_prompts: LogPrompts = False,
    debug: Debug = False,
) -> None:
    """Make the dataset, or what is missing of it."""
    from jobs.synthesize import run

    run(*split(config, overrides, unsafe, log_prompts), date=date, address=address, quiet=quiet, debug=debug)


@app.command(cls=config_command("pipeline.nightly_config", "NightlyConfig"))
def nightly(
    config: ConfigPath = None,
    overrides: Overrides = None,
    date: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="the run date; without it today's in UTC")
    ] = None,
    address: Address = None,
    quiet: Quiet = False,
    unsafe: Unsafe = False,
    log_prompts: LogPrompts = False,
    debug: Debug = False,
) -> None:
    """Make one date's dataset, verify it, move latest.json, delete old outputs, write the morning's summary."""
    from jobs.nightly import run

    run(*split(config, overrides, unsafe, log_prompts), date=date, address=address, quiet=quiet, debug=debug)


@app.command(cls=config_command("pipeline.config", "SynthesizeConfig"))
def plan(
    config: ConfigPath = None,
    overrides: Overrides = None,
    date: Date = None,
    calibrate: Annotated[bool, typer.Option(help="measure a few rows in this process for the estimate")] = False,
    unsafe: Unsafe = False,
    debug: Debug = False,
) -> None:
    """Show what would run: shards, rows, images, what is committed, an estimate. Starts no actor."""
    from jobs.plan import run

    run(*split(config, overrides, unsafe), calibrate=calibrate, date=date)


@app.command()
def report(output: Annotated[str, typer.Argument(help="output URI")], sse: Sse = None, debug: Debug = False) -> None:
    """Rebuild the dataset card and report.html of an output."""
    from jobs.report import run

    run(output, sse)


@app.command()
def verify(
    output: Annotated[str, typer.Argument(help="output URI")],
    deep: Annotated[bool, typer.Option("--deep", help="also decode every image and read its marks")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="move what is damaged under _run/quarantine and re-open its shards")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, max=256, help="shards looked at side by side")] = 8,
    to: Annotated[str | None, typer.Option("--json", metavar="FILE", help="report as JSON; - for stdout")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, only the report")] = False,
    sse: Sse = None,
    debug: Debug = False,
) -> None:
    """Check every record against its objects. Status 0: sound, 1: something found (repaired or not), 2: no output."""
    from jobs.verify import run

    run(output, deep=deep, repair=repair, workers=workers, to=to, quiet=quiet, sse=sse)


@app.command()
def gc(
    output: Annotated[str, typer.Argument(help="output URI")],
    older_than: Annotated[str, typer.Option(help="age by the store's clock, such as 24h, 30m or 7d")] = "24h",
    yes: Annotated[bool, typer.Option("--yes", help="delete; without it only list")] = False,
    sse: Sse = None,
    debug: Debug = False,
) -> None:
    """List, or with --yes delete, what no record names and nobody can commit any more."""
    from jobs.gc import run

    run(output, older_than=older_than, yes=yes, sse=sse)


@app.command()
def inspect(
    image: Annotated[str, typer.Argument(help="image file or URI (PNG, JPEG, WebP)")],
    output: Annotated[str | None, typer.Argument(metavar="[OUTPUT]", help="output that is to have its row")] = None,
    sse: Sse = None,
    debug: Debug = False,
) -> None:
    """Print what an image says of itself, and its row in an output; status 1 where OUTPUT has no such image."""
    from jobs.inspect_image import run

    run(image, output, sse)


@app.command("render-row")
def render_row(
    output: Annotated[str, typer.Argument(help="output URI")],
    image_id: Annotated[str, typer.Argument(metavar="ID", help="the image's id, as in the column id")],
    to: Annotated[Path, typer.Option(help="file to write")] = Path("row.png"),
    model: Annotated[str | None, typer.Option(help="model URI, where it has moved since the run")] = None,
    sse: Sse = None,
    unsafe: Unsafe = False,
    debug: Debug = False,
) -> None:
    """Render one image of an output again, alone, from its row."""
    from jobs.render_row import run

    run(output, image_id, to, model, sse, unsafe=unsafe)


@app.command(cls=config_command("pipeline.refine_config", "RefineConfig"))
def refine(
    config: ConfigPath = None,
    overrides: Overrides = None,
    address: Address = None,
    quiet: Quiet = False,
    unsafe: Unsafe = False,
    log_prompts: LogPrompts = False,
    debug: Debug = False,
) -> None:
    """Make the dataset in rounds: what matches its words least is described and drawn anew, the best is kept."""
    from jobs.refine import run

    run(*split(config, overrides, unsafe, log_prompts), address=address, quiet=quiet, debug=debug)


@app.command()
def submit(
    config: ConfigPath = None,
    overrides: Overrides = None,
    address: Annotated[
        str | None, typer.Option(help="the cluster's dashboard, http://host:8265; else RAY_API_SERVER_ADDRESS")
    ] = None,
    job: Annotated[
        str, typer.Option(help="synthesize, nightly, refine, evaluate, train-encoder or train-gan; CONFIG.yaml is its")
    ] = "synthesize",
    date: Date = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="show the log to its end and exit with the job's status; Ctrl-C detaches")
    ] = False,
    attach: Annotated[
        str | None, typer.Option(metavar="ID", help="follow a job that was submitted before; no config then")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="file that holds the cluster's token; else RAY_AUTH_TOKEN, or ~/.ray/auth_token")
    ] = None,
    working_dir: Annotated[Path, typer.Option(help="directory that goes along, 100 MiB zipped at most")] = Path(),
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="what stays behind, as .gitignore has it; repeatable")
    ] = None,
    runtime_env: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="Ray's runtime environment of the job: pip, image_uri, ...")
    ] = None,
    id: Annotated[str | None, typer.Option(help="name of the job; else one is made")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="kept in Ray's job table; repeatable")
    ] = None,
    cpus: Annotated[float, typer.Option(min=0, help="CPUs reserved for the job's own process")] = 0.0,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs reserved for the job's own process")] = 0.0,
    memory: Annotated[int, typer.Option(min=0, help="bytes of memory reserved for the job's own process")] = 0,
    resource: Annotated[
        list[str] | None, typer.Option(metavar="NAME=AMOUNT", help="custom resource of that process; repeatable")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="label of the node it runs on; repeatable")
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="seconds to wait for a cluster that has just started")] = 60.0,
    unsafe: Unsafe = False,
    debug: Debug = False,
) -> None:
    """Run a job on a Ray cluster: checks the config here, sends the working directory, starts the job over HTTP."""
    from jobs import submit as job_submit

    if attach is not None:
        # A command that returns its status ends with 0 whatever it was.
        raise typer.Exit(job_submit.attach(attach, address=address, token=token_file))
    asked = job_submit.Asked(
        job=job, working_dir=working_dir, excludes=exclude or (), runtime_env=runtime_env, id=id,
        metadata=metadata or (), cpus=cpus, gpus=gpus, memory=memory, resources=resource or (), labels=label or (),
        wait=wait, follow=follow, date=date,
    )  # fmt: skip
    raise typer.Exit(job_submit.run(*split(config, overrides, unsafe), asked, address=address, token=token_file))


app.add_typer(training)
app.add_typer(models, name="models")


def guarded(command: Callable[[], Any], *, debug: bool) -> int:
    """Runs a command and turns its errors into one sentence and an exit status."""
    try:
        status = command()
    except KeyboardInterrupt:
        tell("interrupted", "error")
        return 130
    except BaseException as error:  # noqa: BLE001 - the last place that can turn it into a sentence
        if debug and not isinstance(error, SystemExit):
            print(printable(without_secrets(traceback.format_exc()), lines=True), file=sys.stderr)
        code = getattr(error, "exit_code", None)
        if isinstance(code, int):
            tell(str(error), "error")
            return code
        if isinstance(error, SystemExit):
            return error.code if isinstance(error.code, int) else 0
        text = " ".join(str(error).split())[:300]
        tell(f"unexpected {type(error).__name__}: {text} (--debug shows where; please report it)", "error")
        return 1
    return status if isinstance(status, int) else 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the console script."""
    words = sys.argv[1:] if arguments is None else arguments
    logs.reset()
    return guarded(lambda: app(words, standalone_mode=True), debug="--debug" in words)
