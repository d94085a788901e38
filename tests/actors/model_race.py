"""A process that resolves a model URI: prints its path, the inode of one of its files, and its hash."""

from __future__ import annotations

import sys

from actors.model_uri import resolve_model

if __name__ == "__main__":
    model = resolve_model(sys.argv[1])
    print(model.path, (model.path / "model.safetensors").stat().st_ino, model.sha256)
