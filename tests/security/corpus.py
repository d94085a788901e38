"""Models and tables whose files try to run code: each function makes one under a directory and says how it is opened.

The payload of every pickle, module and template makes the file `CANARY` beside the corpus.
"""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests import models

CANARY = "canary"
_TYPES = (
    "ray.data.arrow_tensor", "ray.data.arrow_tensor_v2", "ray.data.arrow_variable_shaped_tensor",
    "arrow.fixed_shape_tensor", "arrow.opaque",
)  # fmt: skip
_PICKLE_NAMES = ("pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "adapter_model.bin", "model.pkl")


class Payload:
    """Unpickled, it opens the canary for writing."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.canary), "w")


def make(root: Path) -> Iterator[tuple[str, str, str]]:
    """Makes the corpus; yields (name, kind, path), kinds being those of `tests.security.open_corpus`."""
    canary = root / CANARY
    pickled = pickle.dumps(Payload(canary))
    code = f"open({str(canary)!r}, 'w')\n"
    llm, gan = models.save_llm(root / "good-llm"), models.save_gan(root / "good-gan")

    def model(kind: str, name: str, change: Callable[[Path], None]) -> tuple[str, str, str]:
        place = root / f"{kind}-{name}"
        shutil.copytree(llm if kind == "llm" else gan, place)
        change(place)
        return place.name, kind, str(place)

    for file in _PICKLE_NAMES:
        yield model("llm", f"only-{file}", lambda place, file=file: _swap(place, file, pickled))  # type: ignore[misc]

    def another(place: Path) -> None:
        (place / "model.safetensors").rename(place / "other.safetensors")
        (place / "pytorch_model.bin").write_bytes(pickled)

    yield model("llm", "another-safetensors", another)

    def index(place: Path) -> None:
        _swap(place, "pytorch_model.bin", pickled)
        told = {"metadata": {"total_size": 1}, "weight_map": {"model.embed_tokens.weight": "pytorch_model.bin"}}
        (place / "model.safetensors.index.json").write_text(json.dumps(told))

    yield model("llm", "index-of-pickles", index)
    for key, value in (
        ("transformers_weights", "adapter_model.bin"),
        ("attn_implementation", "evil/kernels"),
        ("_attn_implementation_internal", "evil/kernels"),
        ("trust_remote_code", True),
        ("num_hidden_layers", 1_000_000_000),
    ):
        yield model("llm", key, lambda place, told={key: value}: _config(place, told))  # type: ignore[misc]

    def own_code(place: Path) -> None:
        (place / "evil.py").write_text(code)
        maps = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoModel": "evil.Model"}
        _config(place, {"model_type": "evil", "auto_map": maps})

    yield model("llm", "own-code", own_code)

    def own_tokenizer(place: Path) -> None:
        (place / "evil.py").write_text(code)
        path = place / "tokenizer_config.json"
        told = json.loads(path.read_text()) | {
            "tokenizer_class": "Evil",
            "auto_map": {"AutoTokenizer": ["evil.T", None]},
        }
        path.write_text(json.dumps(told))

    yield model("llm", "own-tokenizer", own_tokenizer)
    template = "{{ cycler.__init__.__globals__.os.system('touch " + str(canary) + "') }}"
    yield model("llm", "chat-template", lambda place: _write(place / "chat_template.jinja", template))
    yield model(
        "llm", "adapter",
        lambda place: _write(place / "adapter_config.json", '{"base_model_name_or_path": "evil/base"}'),
    )  # fmt: skip
    yield model("llm", "deep-config", lambda place: _write(place / "config.json", "[" * 100_000))
    for name, header in _headers().items():
        yield model("llm", name, lambda place, data=header: _swap(place, "model.safetensors", data))  # type: ignore[misc]
        yield model("gan", name, lambda place, data=header: _write(place / "generator.safetensors", data))  # type: ignore[misc]
    yield model("gan", "pickle", lambda place: _write(place / "generator.safetensors", pickled))

    def text_pickle(place: Path) -> None:
        _swap(place / "text_encoder", "pytorch_model.bin", pickled)

    yield model("gan", "text-pickle", text_pickle)

    def wide(place: Path) -> None:
        path = place / "config.json"
        told = json.loads(path.read_text())
        told["networks"]["stem_width"] = 1 << 40
        path.write_text(json.dumps(told))

    yield model("gan", "wide", wide)
    for file in ("evil.gguf", "evil.pt", "inception-2015-12-05.pt"):
        (root / file).write_bytes(pickled)
        yield f"features-{file}", "features", str(root / file)
    counts = root / "counts.gguf"
    counts.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60) + bytes(64))
    yield "gguf-counts", "llm", str(counts)
    yield from _pipelines(root, pickled, code)
    yield from _tables(root, pickled)
    yield from _checkpoints(root, pickled)


def _write(path: Path, data: bytes | str) -> None:
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def _swap(place: Path, file: str, data: bytes) -> None:
    for weights in place.glob("*.safetensors"):
        weights.unlink()
    (place / file).write_bytes(data)


def _config(place: Path, told: dict[str, Any]) -> None:
    path = place / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | told))


def _headers() -> dict[str, bytes]:
    def whole(header: str, data: bytes = b"") -> bytes:
        return struct.pack("<Q", len(header)) + header.encode() + data

    entry = '{"dtype":"F32","shape":[4],"data_offsets":[%d,%d]}'
    return {
        "header-length": struct.pack("<Q", 1 << 62) + b"{}",
        "header-overlap": whole(f'{{"a":{entry % (0, 16)},"b":{entry % (8, 24)}}}', bytes(24)),
        "header-negative": whole('{"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,-16]}}', bytes(16)),
        "header-doubled": whole(f'{{"a":{entry % (0, 16)},"a":{entry % (0, 16)}}}', bytes(16)),
        "header-lies": whole('{"a":{"dtype":"F64","shape":[1099511627776],"data_offsets":[0,16]}}', bytes(16)),
    }


def _pipelines(root: Path, pickled: bytes, code: str) -> Iterator[tuple[str, str, str]]:
    for name, index in (
        ("own-pipeline", {"_class_name": ["evil", "Evil"], "unet": ["diffusers", "UNet2DConditionModel"]}),
        ("own-part", {"_class_name": "StableDiffusionPipeline", "unet": ["evil", "Evil"]}),
        ("pickled-part", {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}),
    ):
        place = root / f"diffusers-{name}"
        (place / "unet").mkdir(parents=True)
        (place / "model_index.json").write_text(json.dumps(index | {"_diffusers_version": "0.30.0"}))
        for file in ("evil.py", "pipeline.py", "None.py", "unet/evil.py"):
            (place / file).write_text(code)
        (place / "unet/config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
        if name == "pickled-part":
            (place / "unet/diffusion_pytorch_model.bin").write_bytes(pickled)
        else:
            (place / "unet/diffusion_pytorch_model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
        yield place.name, "diffusers", str(place)


def _tables(root: Path, pickled: bytes) -> Iterator[tuple[str, str, str]]:
    from ray.data.extensions.object_extension import ArrowPythonObjectType

    kind = ArrowPythonObjectType()
    evil = pa.ExtensionArray.from_storage(kind, pa.array([pickled], kind.storage_type))
    nested = pa.StructArray.from_arrays([evil, pa.array([""])], names=["bytes", "path"])
    bare = pa.field("prompt", pa.binary(), metadata={
        b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickled,
    })  # fmt: skip
    for name, opened, table in (
        ("prompt", "prompts", pa.table({"prompt": evil})),
        ("carried", "prompts", pa.table({"prompt": ["a cat"], "extra": evil})),
        ("py-extension", "prompts", pa.table([pa.array([b"x"])], schema=pa.schema([bare]))),
        ("caption", "captioned", pa.table({"caption": evil, "image": [b"x"]})),
        ("image", "captioned", pa.table({"caption": ["a cat"], "image": evil})),
        ("nested", "captioned", pa.table({"caption": ["a cat"], "image": nested})),
        ("evaluated", "images", pa.table({"prompt": ["a cat"], "image": nested})),
    ):
        path = root / f"table-{name}.parquet"
        pq.write_table(table, path)
        yield path.name, opened, str(path)
    # What Arrow and Ray Data make of a column by the name of its type, with metadata that somebody else wrote.
    for kind_name in _TYPES:
        for column, opened in (("prompt", "prompts"), ("image", "captioned")):
            field = pa.field(column, pa.list_(pa.binary(), 1), metadata={
                b"ARROW:extension:name": kind_name.encode(), b"ARROW:extension:metadata": pickled,
            })  # fmt: skip
            fields, arrays = [field], [pa.array([[b"x"]], field.type)]
            if opened == "captioned":
                fields, arrays = [*fields, pa.field("caption", pa.string())], [*arrays, pa.array(["a cat"])]
            path = root / f"table-{kind_name}-{column}.parquet"
            pq.write_table(pa.table(arrays, schema=pa.schema(fields)), path)
            yield path.name, opened, str(path)
    objects = root / "objects.npy"
    np.save(objects, np.array([Payload(root / CANARY)], dtype=object), allow_pickle=True)
    path = root / "members.tar"
    with tarfile.open(path, "w") as tar:
        for member in ("0.npy", "0.npz", "0.pkl", "0.pyd", "0.pth", "0.pickle", "0.json", "0.txt", "0.png"):
            data = {"0.json": b"{}", "0.txt": b"a cat", "0.npy": objects.read_bytes()}.get(member, pickled)
            info = tarfile.TarInfo(member)
            info.size = len(data)
            file = root / "member"
            file.write_bytes(data)
            with file.open("rb") as stream:
                tar.addfile(info, stream)
    yield path.name, "captioned", str(path)


def _checkpoints(root: Path, pickled: bytes) -> Iterator[tuple[str, str, str]]:
    import hashlib

    digest = {"size": len(pickled), "sha256": hashlib.sha256(pickled).hexdigest()}
    for name, file in (("pickle", "state.pkl"), ("outside", "../outside.json"), ("optimizer", "optimizer.pt")):
        place = root / f"checkpoint-{name}"
        folder = place / "checkpoints/000-warm-000000010"
        folder.mkdir(parents=True)
        (folder / Path(file).name).write_bytes(pickled)
        (folder / "manifest.json").write_text(
            json.dumps({"order": [0, 10], "score": None, "files": {file: digest}, "phase": "warm", "step": 10})
        )
        yield place.name, "checkpoint", str(place)
