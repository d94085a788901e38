"""A batch under way whose rows are padded to one length: works with every model, on every device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from actors.prefix_cache import CopiedCache, PrefixCache


class Batch(Protocol):
    """Rows that are being written. ``start`` once, then ``step`` and ``keep`` as often as wanted."""

    def start(self, rows: Sequence[Sequence[int]], room: int) -> Tensor:
        """Reads each row's tokens after the prefix; ``room`` more may follow. Logits (rows, words) of the next."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Appends one token (rows,) to each row; logits of the next."""
        ...

    def keep(self, slots: list[int]) -> None:
        """Goes on with some of the rows alone, in this order; ``slots[i] >= i``."""
        ...

    def drop(self) -> None:
        """Gives the memory back."""
        ...


class PaddedBatch:
    """Columns: prefix | padding | request | reply. The padding is masked, and positions go on as if it were absent.

    Args:
        model: called as transformers' causal models are.
        shared: the prefix.
        masked: whether rows may be of different lengths; without, no mask is given (layers that fold the past would
            not know one).
        takes_positions: whether the model is told positions.
        extra: further arguments of the model.
    """

    def __init__(
        self, model: Any, shared: PrefixCache | CopiedCache, *, masked: bool, takes_positions: bool,
        extra: dict[str, Any],
    ) -> None:  # fmt: skip
        self._model, self._shared = model, shared
        self._masked, self._takes_positions, self._extra = masked, takes_positions, extra

    def start(self, rows: Sequence[Sequence[int]], room: int) -> Tensor:
        """See `Batch`."""
        device, width, longest = self._model.device, self._shared.width, max(map(len, rows))
        self._cache = self._shared.lend(len(rows), longest + room)
        pads = [longest - len(row) for row in rows]
        mask = torch.ones((len(rows), width + longest + room), dtype=torch.long)
        for row, pad in enumerate(pads):
            mask[row, width : width + pad] = 0
        self._mask = mask.to(device)
        ids = torch.tensor([[0] * pad + list(row) for pad, row in zip(pads, rows, strict=True)], device=device)
        starts = torch.tensor(pads, device=device).unsqueeze(1)
        self._positions = width + (torch.arange(longest, device=device).unsqueeze(0) - starts).clamp(min=0)
        self._seen = width + longest
        return self._logits(ids)

    def step(self, tokens: Tensor) -> Tensor:
        """See `Batch`."""
        self._positions = self._positions[:, -1:] + 1
        self._seen += 1
        return self._logits(tokens.unsqueeze(1))

    def keep(self, slots: list[int]) -> None:
        """See `Batch`."""
        self._shared.keep(slots)
        chosen = torch.tensor(slots, device=self._mask.device)
        self._mask, self._positions = self._mask[chosen], self._positions[chosen]

    def drop(self) -> None:
        """See `Batch`."""
        self._shared.drop()

    def _logits(self, ids: Tensor) -> Tensor:
        known: dict[str, Any] = {"attention_mask": self._mask[:, : self._seen]} if self._masked else {}
        if self._takes_positions:
            known["position_ids"] = self._positions
        output = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True, **known, **self._extra)
        logits: Tensor = output.logits[:, -1]
        return logits
