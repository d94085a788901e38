"""Models whose weights are all there: transformers fills what a checkpoint lacks with random numbers, and goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.errors import UserError


def load_whole(kind: Any, path: Path, **how: Any) -> Any:
    """``kind.from_pretrained(path, **how)``, refused where a parameter is in none of the files.

    Raises:
        UserError: names the first of the missing ones. Whatever else the library raises goes up as it is.
    """
    model, report = kind.from_pretrained(str(path), output_loading_info=True, **how)
    # Buffers (position ids) are computed, not stored, in many a checkpoint: only parameters are weights.
    weights = dict(model.named_parameters())
    missing = sorted(key for key in report["missing_keys"] if key in weights)
    if missing:
        raise UserError(f"the weights in {path} are incomplete: {missing[0]} is missing ({len(missing)} in all)")
    return model
