"""Loading a causal language model and its tokenizer, from a directory or a GGUF file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from actors.errors import PromptmillError, UserError
from actors.model_cache import default_cache, made_once
from actors.model_uri import LocalModel
from actors.offline import offline, unloadable
from actors.whole_weights import load_whole


def load_language_model(
    model: LocalModel, device: torch.device, dtype: str = "auto", cache: Path | None = None
) -> tuple[Any, Any]:
    """The model (eval mode, on ``device``) and its tokenizer.

    Args:
        model: a directory with config, tokenizer and weights; a .gguf file; or a directory with one .gguf file.
        device: where it runs.
        dtype: a torch dtype's name, or ``"auto"``: float32 on a CPU, bfloat16 on a GPU.
        cache: where a GGUF model's converted weights are kept; ``None`` means `actors.model_cache.default_cache`.

    Raises:
        UserError: not a causal language model, damaged, or an unknown dtype.
    """
    wanted = _dtype(dtype, device)
    try:
        path = transformers_directory(model, cache)
        how = {"local_files_only": True, "trust_remote_code": model.trusted}
        with offline():
            loaded = load_whole(
                AutoModelForCausalLM, path, dtype=wanted, use_safetensors=None if model.trusted else True, **how
            )
            tokenizer = AutoTokenizer.from_pretrained(str(path), **how)
    except (torch.OutOfMemoryError, PromptmillError):
        raise
    except Exception as error:
        # A damaged or hostile model makes the libraries raise whatever they happen to trip over.
        raise UserError(unloadable(error, f"the language model {model.uri}")) from error
    return loaded.to(device).eval(), tokenizer


def transformers_directory(model: LocalModel, cache: Path | None = None) -> Path:
    """The model as a directory with safetensors, which a GGUF file is converted to once in the cache."""
    gguf = _gguf_file(model.path)
    if gguf is None:
        return model.path
    target = (cache or default_cache()) / "models" / f"gguf-{model.sha256[:32]}"
    return made_once(target, lambda directory: _convert(gguf, directory))


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UserError(f"expand.dtype {name!r} is no floating-point type: use auto, float32, bfloat16 or float16")
    return found


def _gguf_file(path: Path) -> Path | None:
    """The GGUF file to convert; ``None`` where the directory has safetensors."""
    if path.is_file():
        return path
    files = sorted(path.glob("*.gguf"))
    if not files or any(path.glob("*.safetensors")):
        return None
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise UserError(f"the model {path} holds several GGUF files ({names}): name one of them in the model URI")
    return files[0]


def _convert(gguf: Path, directory: Path) -> None:
    """Writes the GGUF model as a transformers directory, weights unpacked to float32.

    Reading GGUF takes half a minute for 135M weights, the converted directory a blink. float32 holds each unpacked
    value (scale x integer + minimum) without a further rounding.
    """
    place = {
        "pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name, "local_files_only": True,
        "trust_remote_code": False,
    }  # fmt: skip
    with offline():
        tokenizer = AutoTokenizer.from_pretrained(**place)
        packed = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    config = copy.deepcopy(packed.config)
    # What transformers read from packed weights it refuses to save; the unpacked tensors go into a plain model.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # From a dict once more, so that no trace of this machine's paths stays in the saved config.
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config.to_dict()), dtype=torch.float32)
    plain.load_state_dict(packed.state_dict(), strict=True, assign=True)
    plain.tie_weights()
    plain.generation_config = packed.generation_config
    plain.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
