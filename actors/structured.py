"""Replies in fields: the JSON schema that an engine holds the model to, and the description made of what it wrote.

A recipe with ``fields`` asks for a JSON object of strings, and its ``compose`` joins them into one description. Engines
with guided decoding (``vllm``, and endpoints that know ``response_format``) let the model write nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_MOST_CHARS = 400


def json_schema(fields: Sequence[str]) -> dict[str, Any]:
    """The schema of an object with these string fields, in their order, and no other."""
    text = {"type": "string", "minLength": 1, "maxLength": _MOST_CHARS}
    return {
        "type": "object",
        "properties": {name: dict(text) for name in fields},
        "required": list(fields),
        "additionalProperties": False,
    }


def read_fields(text: str, fields: Sequence[str]) -> dict[str, str] | None:
    """The fields of a reply; None where it is no such object."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or set(told) != set(fields):
        return None
    if not all(isinstance(value, str) and value.strip() for value in told.values()):
        return None
    return {name: " ".join(told[name].split()).strip(" .,;") for name in fields}
