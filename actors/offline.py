"""Loading is offline: while a model is loaded, the hub's client refuses every request.

Each loader passes ``local_files_only`` besides; this holds for what the libraries look up on their own (a tokenizer's
repair, a kernel, an adapter's base model). Downloading is `actors.model_uri`'s alone, for a URI that asks for it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from actors.model_files import TRUST

_LOADING = threading.RLock()


@contextmanager
def offline() -> Iterator[None]:
    """No request to the hub inside. It is a setting of the process, so one thread loads at a time."""
    from huggingface_hub import constants

    with _LOADING:
        before = constants.HF_HUB_OFFLINE
        constants.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before


def unloadable(error: BaseException, what: str) -> str:
    """Why a model cannot be loaded, as a sentence: a library's first line, or how to let the model's own code run."""
    if "trust_remote_code" in str(error):
        return f"{what} needs code of its own, which is not run: {TRUST}"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return f"{what} cannot be loaded: {reason}"
