"""What can be said of a submission before any cluster is asked: mistakes that would otherwise be told hours later.

A submitted job runs on another machine, in a scratch copy of the working directory. So what the config names must go
along or be there already, and what is written must not land in the copy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException
from yaml import YAMLError, safe_load

from actors.errors import UserError
from pipeline.config_base import Section
from pipeline.config_file import load_config
from pipeline.package import Package
from pipeline.without_secrets import holds_secret, is_secret_name, without_secrets

_OUTPUT = "output"
_VARIABLE = re.compile(r"Environment variable '(\w+)' not found")


def checked_config(
    model: type[Section], path: Path | None, overrides: list[str], package: Package
) -> tuple[Section | None, str | None]:
    """Validates what the job will be told, and looks for what it names.

    Returns:
        The config, or None where it can only be read on the cluster; and a remark, if any.

    Raises:
        UserError: a mistake in the config; a table or file that is not there or does not go along; an output that would
            land in the scratch copy; a credential in the config file.
    """
    if path is not None:
        reason = package.why_not(path.absolute())
        if path.exists() and reason:
            raise UserError(f"config '{path}' does not go along: {reason}")
    try:
        config = load_config(model, path, overrides)
    except UserError as error:
        # A variable that is set on the cluster alone is no mistake.
        missing = _VARIABLE.search(str(error))
        if missing is None or not isinstance(error.__cause__, InterpolationResolutionError):
            raise
        _refuse_file_secrets(path)
        return None, f"config '{path}' uses {missing[1]}, which is not set here: it is checked on the cluster"
    _refuse_file_secrets(path)
    for key, value in _texts(config.model_dump(), ""):
        _check_place(key, value, package)
    return config, None


def checked_runtime_env(path: Path | None) -> dict[str, Any]:
    """Reads a runtime environment of Ray's (YAML), which is kept in Ray's job table.

    Raises:
        UserError: no file, no mapping, a working directory of its own, or a credential.
    """
    if path is None:
        return {}
    try:
        found = safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"runtime environment '{path}' cannot be read ({type(error).__name__})") from error
    except YAMLError as error:
        raise UserError(f"runtime environment '{path}' is no YAML") from error
    if not isinstance(found, Mapping):
        raise UserError(f"runtime environment '{path}' must be a mapping, such as {{pip: [...]}}")
    for taken in ("working_dir", "excludes"):
        if taken in found:
            raise UserError(f"runtime environment '{path}' sets {taken}: say it with --working-dir and --exclude")
    for key, value in _texts(found, ""):
        if is_secret_name(key.rpartition(".")[2]) or holds_secret(value):
            raise UserError(
                f"{key} in '{path}' is a credential, which Ray's job table would keep: set it in the environment of "
                "the cluster's nodes"
            )
    return dict(found)


def _check_place(key: str, value: str, package: Package) -> None:
    """Raises `UserError` where a local path of the config does not mean the same thing on the cluster."""
    if "://" in value or ":" in value.partition("/")[0] or Path(value).is_absolute() or "\n" in value:
        return
    if key == f"{_OUTPUT}.uri":
        raise UserError(
            f"{key} is the relative path '{value}': a submitted job runs in a scratch copy on another machine, where "
            "it would be lost; name a bucket, or an absolute path that all nodes share"
        )
    here = package.directory / value
    is_table = key.endswith("uri") or key == "uri"
    if is_table and not (here.exists() or _matches(package.directory, value)):
        raise UserError(f"{key}: nothing is at '{value}' in the working directory '{package.directory}'")
    if (is_table or "/" in value or "." in value) and here.exists():
        reason = package.why_not(here)
        if reason:
            raise UserError(f"{key}: '{value}' does not go along: {reason}; put it into a bucket, or let it go along")


def _matches(directory: Path, pattern: str) -> bool:
    return any(sign in pattern for sign in "*?[") and next(directory.glob(pattern), None) is not None


def _refuse_file_secrets(path: Path | None) -> None:
    """Raises `UserError` where the config file spells a credential out: Ray keeps the files of a job, too."""
    if path is None:
        return
    try:
        raw = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OmegaConfBaseException, YAMLError):  # told by `load_config`
        return
    for key, value in _texts(raw, ""):
        named = ".options." in f".{key}." and is_secret_name(key.rpartition(".")[2])
        hook = key == "nightly.summary" and value.lower().startswith("http")
        if (named or hook or holds_secret(value)) and "${" not in value:
            raise UserError(
                f"{key} in '{path}' is a credential, and Ray would keep the file: write ${{oc.env:NAME}} there and set "
                f"NAME in the environment of the cluster's nodes"
            )


def refuse_secret(option: str, name: str, value: str) -> None:
    """Raises `UserError` for a credential in an option whose value Ray's job table keeps."""
    if is_secret_name(name) or holds_secret(value) or without_secrets(value) != value:
        raise UserError(f"{option} {name} holds a credential, which Ray's job table would keep and show")


def _texts(values: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """All texts of nested mappings and lists, with their dotted keys."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _texts(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _texts(value, prefix)
    elif isinstance(values, str):
        yield prefix, values
