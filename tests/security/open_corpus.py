"""``python -m tests.security.open_corpus ROOT``: opens the corpus as the product does, audited.

Prints one JSON object: for each name how it ended, and what the interpreter saw happen that must not (unpickling, a new
process, a connection, code of the corpus compiled or run).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers  # noqa: F401
import ray.data.extensions.object_extension  # registers the type whose values are pickles
import ray.data.extensions.tensor_extension  # noqa: F401 - and those whose metadata may be pickles
import torch
import transformers  # noqa: F401

from actors.chat import Chat
from actors.diffusers_pipeline import load_pipeline
from actors.diffusers_settings import DiffusersSettings
from actors.features import load_features
from actors.gan_model import load_gan
from actors.language_model import load_language_model
from actors.model_uri import resolve_model
from pipeline.captioned import open_captioned
from pipeline.checkpoint_store import CheckpointStore
from pipeline.columns import choose_columns
from pipeline.config_stages import Prompts
from pipeline.evaluate_config import Images
from pipeline.image_table import open_images
from pipeline.prompts import open_table
from pipeline.storage import Store
from tests.security.corpus import make

_FORBIDDEN = {
    "pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn", "os.spawn",
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request",
}  # fmt: skip


def llm(path: str) -> None:
    """As the LLM actor loads it, and renders a conversation by its template."""
    _, tokenizer = load_language_model(resolve_model(path), torch.device("cpu"))
    Chat(tokenizer, [])


def gan(path: str) -> None:
    load_gan(resolve_model(path).path)


def features(path: str) -> None:
    load_features(resolve_model(path), torch.device("cpu"))


def pipeline(path: str) -> None:
    load_pipeline(resolve_model(path).path, DiffusersSettings(), torch.device("cpu"))


def prompts(path: str) -> None:
    config = Prompts(uri=path)
    table = open_table(config)
    columns = choose_columns(table.schema, config)
    for batch in table.batches(list(columns.read)):
        batch.to_pylist()


def captioned(path: str) -> None:
    table = open_captioned(path)
    for fragment in table.fragments:
        table.read(fragment)


def images(path: str) -> None:
    table = open_images(Images(uri=path), "generated")
    for number in range(len(table.fragments)):
        table.read(number)


def checkpoint(path: str) -> None:
    target = Path(path) / "here"
    target.mkdir()
    if CheckpointStore(Store(path), 3, lambda text: None).latest(target) is None:
        raise ValueError("passed over")


_OPEN: dict[str, Callable[[str], None]] = {
    "llm": llm, "gan": gan, "features": features, "diffusers": pipeline, "prompts": prompts, "captioned": captioned,
    "images": images, "checkpoint": checkpoint,
}  # fmt: skip


def main(root: Path) -> None:
    """Opens all of them."""
    corpus = list(make(root))
    ended: dict[str, str] = {}
    seen: list[str] = []
    current: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not current:
            return
        where = getattr(arguments[0], "co_filename", "") if event == "exec" else arguments[1:2]
        inside = event in {"exec", "compile", "import"} and str(root) in str(where)
        if event in _FORBIDDEN or inside:
            seen.append(f"{current[0]}: {event} {str(arguments)[:200]}")

    sys.addaudithook(hook)
    for name, kind, path in corpus:
        current[:] = [name]
        try:
            _OPEN[kind](path)
        except Exception as error:  # noqa: BLE001 - how it ended is what is asked
            ended[name] = f"{type(error).__name__}: {error}"
        else:
            ended[name] = "opened"
        current.clear()
    print(json.dumps({"ended": ended, "seen": seen}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
