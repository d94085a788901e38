"""Reads a run's config: YAML file, then dotted ``key=value`` overrides, then validation, before Ray starts."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from yaml import MarkedYAMLError, YAMLError

from actors.errors import UserError
from pipeline.config_base import Section
from pipeline.without_secrets import HIDDEN, holds_secret, is_secret_name, without_secrets

T = TypeVar("T", bound=Section)


def load_config(model: type[T], path: Path | None, overrides: Sequence[str] = ()) -> T:
    """Builds a validated config.

    Args:
        model: the root section.
        path: a YAML file; None starts from the defaults.
        overrides: ``section.key=value``, the value in YAML (``null``, ``[a, b]``, ``1e-4``).

    Raises:
        UserError: the file is missing or no YAML, a key is unknown (the nearest known one is named), a value does not
            fit its option.
    """
    try:
        raw = OmegaConf.load(path) if path is not None else OmegaConf.create({})
        if not OmegaConf.is_dict(raw):
            raise UserError(f"config '{path}' must hold a mapping of sections, not a list")
        for text in overrides:
            if "=" not in text:
                raise UserError(f"override '{without_secrets(text)}' is not of the form section.key=value")
            _refuse_secret(text)
        merged = OmegaConf.merge(raw, OmegaConf.from_dotlist(list(overrides)))
        values = OmegaConf.to_container(merged, resolve=True)
    except FileNotFoundError as error:
        raise UserError(f"no config file at '{path}'") from error
    except IsADirectoryError as error:
        raise UserError(f"'{path}' is a directory; name the YAML file in it") from error
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        place = f"config '{path}'" if path is not None else "the overrides"
        raise UserError(f"{place} cannot be read: {without_secrets(_problem(error))}") from error
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(_sentence(error, model)) from None


def _refuse_secret(override: str) -> None:
    """Raises `UserError` for a credential on the command line: Ray's job table keeps that line, and so do shells."""
    key, _, value = override.partition("=")
    named = ".options." in f".{key}." and is_secret_name(key.rpartition(".")[2])
    if (named and not value.startswith("${")) or (
        key.rpartition(".")[2] == "options" and value.strip() not in {"{}", ""}
    ):
        raise UserError(
            f"{key} is given on the command line, which Ray's job table, process lists and shells keep: put "
            "credentials into the environment (AWS_ACCESS_KEY_ID, ...), or into the config file as ${oc.env:NAME}"
        )
    if key.partition(".")[0] == "nightly" and "://" in value and "http" in value.lower():
        raise UserError(
            f"{key} is given on the command line, and a webhook's URL is a secret that Ray's job table, process lists "
            "and shells would keep: put it into the config file, at best as ${oc.env:NAME}"
        )
    if holds_secret(value):
        raise UserError(
            f"{key} holds a password or a signature on the command line, which Ray's job table, process lists and "
            "shells keep: put the URI into the config file, at best as ${oc.env:NAME}"
        )


def _problem(error: Exception) -> str:
    """What is wrong with YAML, without the line that is wrong: it may hold a credential."""
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark
        return f"{error.problem or error.context}" + (f" in line {mark.line + 1}" if mark else "")
    return " ".join(str(error).split())


def options(model: type[Section], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """All options under ``model``, depth first: (dotted key, type, default, meaning)."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        section = _section_of(field)
        if section is not None:
            if type(None) in typing.get_args(field.annotation):
                yield key, "section or null", "see below", field.description or ""
            yield from options(section, f"{key}.")
        else:
            default = "required" if field.default is PydanticUndefined else _yaml(field.default)
            yield key, _type_name(field.annotation), default, field.description or ""


def _section_of(field: FieldInfo) -> type[Section] | None:
    candidates = [field.annotation, *typing.get_args(field.annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Section)), None)


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _type_name(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(str(v) for v in typing.get_args(annotation))
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return " | ".join(_type_name(a) for a in typing.get_args(annotation))
    if typing.get_origin(annotation) is Annotated:
        return _type_name(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is not None:
        return str(annotation).replace("typing.", "").replace("Any", "any")
    return str(annotation.__name__)


def _sentence(error: ValidationError, model: type[Section]) -> str:
    """The first problem in one sentence, with the count of the others."""
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = [name for name, *_ in options(model)]
        # Sections are keys too: a typo in their name is the commonest mistake.
        known += sorted({name.rsplit(".", n)[0] for name in known for n in range(1, name.count(".") + 1)})
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        text = f"unknown option '{key}'; the nearest known one is '{near[0]}'"
    else:
        hidden = {"options", "sse", "key_env"} & set(first["loc"])
        given = HIDDEN if hidden else without_secrets(f"{first['input']!r}")[:80]
        text = f"option '{key}': {first['msg'].removeprefix('Value error, ')} (given: {given})"
    return text + (f"; and {len(problems) - 1} more such problem(s)" if len(problems) > 1 else "")
