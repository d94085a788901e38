"""Seeds: every random number comes from (run seed, name of the thing), so any one thing can be made again alone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(run_seed: int, *names: str | int) -> int:
    """A seed in 0 .. 2**63-1 for the thing that ``names`` identify (BLAKE2b of the length-prefixed parts)."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (run_seed, *names):
        encoded = str(part).encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return int.from_bytes(digest.digest(), "big") >> 1


def image_generator(seed: int) -> torch.Generator:
    """A CPU generator of one image: noise is drawn on the CPU so that it is the same on every device."""
    import torch  # Here, because what only derives seeds starts faster without it.

    return torch.Generator(device="cpu").manual_seed(seed)
