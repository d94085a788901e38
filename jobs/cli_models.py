"""Commands about models: what this node holds of them, and which to choose."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cli_words import Address, Debug, Unsafe

models = typer.Typer(
    help="The node's model cache; which models to choose.", no_args_is_help=True, rich_markup_mode=None
)


@models.command()
def pull(
    uri: Annotated[str, typer.Argument(help="model URI, as expand.model and generate.model take it")],
    adapter: Annotated[bool, typer.Option("--adapter", help="it is a LoRA adapter")] = False,
    unsafe: Unsafe = False,
    debug: Debug = False,
) -> None:
    """Copy a model to this node and print its path and hash; a second call finds it there."""
    from jobs.models import pull

    pull(uri, unsafe=unsafe, adapter=adapter)


@models.command("list")
def list_models(
    check: Annotated[bool, typer.Option("--check", help="hash every file again")] = False, debug: Debug = False
) -> None:
    """Show what the cache holds."""
    from jobs.models import show

    show(check=check)


@models.command()
def prune(
    to: Annotated[str | None, typer.Option(metavar="SIZE", help="e.g. 50G; without it the cache's limit")] = None,
    everything: Annotated[bool, typer.Option("--all", help="all of it, also what was just used")] = False,
    debug: Debug = False,
) -> None:
    """Take away what was used longest ago, but nothing of the last hour."""
    from jobs.models import prune

    prune(to=to, everything=everything)


@models.command()
def recommend(
    table: Annotated[str | None, typer.Argument(metavar="[TABLE]", help="prompt table, whose rows are counted")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="images in all; with a table, images of each row")] = None,
    gpu: Annotated[list[str] | None, typer.Option(metavar="NAME:COUNT", help="e.g. L4:8; may be repeated")] = None,
    price: Annotated[list[str] | None, typer.Option(metavar="NAME=PRICE", help="of a GPU hour, e.g. L4=0.80")] = None,
    budget: Annotated[float | None, typer.Option(min=0, help="what the run may cost, in the prices' currency")] = None,
    expand: Annotated[bool, typer.Option(help="with a language model that writes a description for each image")] = True,
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
    debug: Debug = False,
) -> None:
    """Say which models fit the GPUs, how long and how dear they are, and choose; by rule, nothing is run or fetched."""
    from jobs.recommend import recommend

    recommend(
        table, images=images, gpus=gpu or [], prices=price or [], budget=budget, expand=expand, address=address,
        as_json=as_json,
    )  # fmt: skip
