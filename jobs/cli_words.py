"""What the commands have in common: options that several take, and --help that lists a whole configuration."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand


def config_command(module: str, name: str) -> type[TyperCommand]:
    """A command whose --help lists every option of a config with meaning, unit and default.

    Args:
        module: where the config's class is; imported when it is asked for.
        name: of the class.
    """

    class ConfigCommand(TyperCommand):
        def format_epilog(self, ctx: Any, formatter: Any) -> None:
            from pipeline.config_file import options

            config = getattr(importlib.import_module(module), name)
            with formatter.section("Config (in CONFIG.yaml, or as section.key=value)"):
                formatter.write_dl(
                    [(key, f"{text} [{kind}; default: {default}]") for key, kind, default, text in options(config)]
                )

    return ConfigCommand


ConfigPath = Annotated[str | None, typer.Argument(metavar="[CONFIG.yaml]", help="YAML file; without it the defaults")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]...", help="options set here")]
Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks and the workers' logs")]
LogPrompts = Annotated[bool, typer.Option("--log-prompts", help="log prompts and descriptions too (log.prompts=true)")]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress, only the summary")]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster, e.g. auto or ray://host:10001; else RAY_ADDRESS, else local")
]
Sse = Annotated[
    str | None, typer.Option(help="server-side encryption of OUTPUT on S3: SSE-S3, SSE-KMS[:KEY_ID], SSE-C:env:NAME")
]
Unsafe = Annotated[
    bool,
    typer.Option(
        "--allow-unsafe-models", help="models as pickles, or with code of their own: allow_unsafe_models=true"
    ),
]
Date = Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="the run date, for {date} in output.uri")]


def split(
    config: str | None, overrides: list[str] | None, unsafe: bool = False, log_prompts: bool = False
) -> tuple[Path | None, list[str]]:
    """Tells the config file from overrides: the first word is an override where it has a ``=``."""
    switches = {"allow_unsafe_models=true": unsafe, "log.prompts=true": log_prompts}
    rest = [*(overrides or []), *(option for option, on in switches.items() if on)]
    if config is None:
        return None, rest
    if "=" in config:
        return None, [config, *rest]
    return Path(config), rest
