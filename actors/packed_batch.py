"""A batch under way without padding: all rows' tokens lie one after another, and the shared prefix is read in place.

The prefix's keys and values exist once, whatever the number of rows: attention to it is one matrix product for all rows
together. What a row has of its own is short. Both parts share one softmax, so the result is that of ordinary attention
(cf. "Hydragen", Juravsky et al. 2024, which joins them afterwards).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.cache_utils import DynamicCache

_NAME = "promptmill_shared_prefix"
# What some models ask of attention besides; `_attend` does none of it.
_UNKNOWN = ("sliding_window", "softcap", "s_aux", "position_bias")


class PackedBatch:
    """See `actors.padded_batch.Batch`. For models whose layers keep all past tokens and attend through transformers'
    attention interface; `agrees` finds out.

    Args:
        model: called as transformers' causal models are; takes ``position_ids`` and ``logits_to_keep``.
        prefix: the state after the prefix, batch size 1.
        width: tokens in the prefix.
        part: rows whose requests are read in one call; all are then written together.
    """

    def __init__(self, model: Any, prefix: DynamicCache, width: int, part: int) -> None:
        self._model, self._width, self._part = model, width, part
        self._prefix = [
            # (heads, size, width) and (heads, width, size): as the two products want them.
            (layer.keys[0].transpose(1, 2).contiguous(), layer.values[0].contiguous())
            for layer in prefix.layers
        ]
        self._own: list[tuple[Tensor, Tensor]] = []

    def start(self, rows: Sequence[Sequence[int]], room: int) -> Tensor:
        """See `Batch`."""
        self._lengths = torch.tensor([len(row) for row in rows])
        self._make_room(len(rows), int(self._lengths.max()) + room)
        # Reading is bound by arithmetic, and a part of the rows fills the cores; writing is bound by the weights' way
        # from memory, which is the same for one row and for many.
        return torch.cat([self._read(rows[first : first + self._part], first) for first in self._firsts(len(rows))])

    def _firsts(self, rows: int) -> range:
        return range(0, rows, self._part)

    def _read(self, rows: Sequence[Sequence[int]], first: int) -> Tensor:
        lengths = torch.tensor([len(row) for row in rows])
        slots = torch.repeat_interleave(torch.arange(len(rows)), lengths)
        columns = torch.cat([torch.arange(len(row)) for row in rows])
        ids = torch.tensor([token for row in rows for token in row])
        step = _Step(self._prefix, self._own, first, slots, columns)
        return self._logits(ids, columns, lengths.cumsum(0) - 1, step)

    def _make_room(self, rows: int, columns: int) -> None:
        """Buffers of at least this size; they are kept from batch to batch."""
        if self._own and self._own[0][0].shape[0] >= rows and self._own[0][0].shape[2] >= columns:
            return
        if self._own:
            rows, columns = max(rows, self._own[0][0].shape[0]), max(columns, self._own[0][0].shape[2])
        self._own = []  # before the new ones are made: both at once might not fit
        # Zeros: a masked column counts nothing, but nothing times a NaN that was there before would be NaN.
        self._own = [
            (
                keys.new_zeros(rows, keys.shape[0], columns, keys.shape[1]),
                values.new_zeros(rows, values.shape[0], columns, values.shape[2]),
            )
            for keys, values in self._prefix
        ]

    def step(self, tokens: Tensor) -> Tensor:
        """See `Batch`."""
        every, columns = torch.arange(len(tokens)), self._lengths
        self._lengths = self._lengths + 1
        return self._logits(tokens, columns, every, _Step(self._prefix, self._own, 0, every, columns))

    def keep(self, slots: list[int]) -> None:
        """See `Batch`."""
        moved = [(to, row) for to, row in enumerate(slots) if to != row]
        if moved:
            into, out_of = (torch.tensor(side) for side in zip(*moved, strict=True))
            for layer in self._own:
                for states in layer:
                    states[into] = states[out_of]
        self._lengths = self._lengths[slots]

    def drop(self) -> None:
        """See `Batch`."""
        self._own = []

    def _logits(self, ids: Tensor, columns: Tensor, last: Tensor, step: _Step) -> Tensor:
        with _attention(self._model.config):
            output = self._model(
                input_ids=ids.unsqueeze(0), position_ids=(self._width + columns).unsqueeze(0), use_cache=False,
                logits_to_keep=last, promptmill_step=step,
            )  # fmt: skip
        logits: Tensor = output.logits[0]
        return logits


_States = Sequence[tuple[Tensor, Tensor]]


class _Step:
    """What attention needs to know of one call of the model: which row and column each token belongs to.

    Args:
        prefix: keys and values of the prefix, by layer.
        own: buffers of the rows' own keys and values, by layer; the call's rows are in them from ``first`` on.
        slots: each token's row, counted from ``first``.
        columns: each token's place in its row.
    """

    def __init__(self, prefix: _States, own: _States, first: int, slots: Tensor, columns: Tensor) -> None:
        self._prefix, self._own, self._first = prefix, own, first
        self._slots, self._columns = slots, columns
        self._rows, self._width = int(slots[-1]) + 1, int(columns.max()) + 1
        # A token sees the columns of its row up to its own: (tokens, 1, 1, columns).
        hidden = torch.arange(self._width).unsqueeze(0) > columns.unsqueeze(1)
        self._bias = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)[:, None, None]
        self._single = len(slots) == self._rows  # one token a row: nothing to spread out
        # Where each place of a row lies among the tokens; past a row's end the last token, which nobody sees there.
        self._spot = slots * self._width + columns
        self._token = torch.full((self._rows * self._width,), len(slots) - 1)
        self._token[self._spot] = torch.arange(len(slots))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """``query`` (heads, tokens, size); ``key`` and ``value`` with fewer heads; to (tokens, heads, size)."""
        prefix_keys, prefix_values = self._prefix[layer]
        own_keys, own_values = (states[self._first : self._first + self._rows] for states in self._own[layer])
        few, width = key.shape[0], prefix_keys.shape[2]
        tokens, size = query.shape[1:]
        group = query.shape[0] // few
        for own, states in ((own_keys, key), (own_values, value)):
            if self._single:
                own[self._slots, :, self._columns] = states.transpose(0, 1)
            else:
                own[:, :, : self._width] = self._spread(states.transpose(0, 1).unsqueeze(2))
        keys, values = own_keys[:, :, : self._width], own_values[:, :, : self._width]
        # (few, tokens x group, size): the heads that share keys are further rows of one product.
        asked = (query * scaling).view(few, group, tokens, size).transpose(1, 2)
        flat = asked.reshape(few, tokens * group, size)
        to_prefix = torch.bmm(flat, prefix_keys).view(few, tokens, group, width)
        to_own = self._spread(asked.transpose(0, 1)) @ keys.transpose(2, 3)
        to_own = self._gather(to_own, group) + self._bias
        scores = torch.cat([to_prefix, to_own.transpose(0, 1)], dim=3)
        weights = torch.softmax(scores, dim=3, dtype=torch.float32).to(query.dtype)
        of_prefix = torch.bmm(weights[..., :width].reshape(few, tokens * group, width), prefix_values)
        of_own = self._gather(self._spread(weights[..., width:].transpose(0, 1)) @ values, group)
        made = of_prefix.view(few, tokens, group, size).transpose(0, 1) + of_own
        return made.reshape(tokens, few * group, size)

    def _spread(self, packed: Tensor) -> Tensor:
        """(tokens, few, group, n) to (rows, few, columns x group, n); what is no token repeats one."""
        if self._single:
            return packed
        _, few, group, wide = packed.shape
        spread = packed.reshape(-1, few * group * wide).index_select(0, self._token)
        spread = spread.view(self._rows, self._width, few, group, wide).transpose(1, 2)
        return spread.reshape(self._rows, few, self._width * group, wide)

    def _gather(self, spread: Tensor, group: int) -> Tensor:
        """The way back: (rows, few, columns x group, n) to (tokens, few, group, n)."""
        if self._single:
            return spread
        rows, few, _, wide = spread.shape
        packed = spread.view(rows, few, self._width, group, wide).transpose(1, 2)
        return packed.reshape(rows * self._width, few * group * wide)[self._spot].view(-1, few, group, wide)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    scaling: float | None = None, promptmill_step: _Step, **asked: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """transformers' attention interface: states are (1, heads, tokens, size)."""
    if any(asked.get(name) is not None for name in _UNKNOWN):
        raise NotImplementedError("this model's attention does more than the packed batch knows")
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    return promptmill_step.attend(module.layer_idx, query[0], key[0], value[0], scale).unsqueeze(0), None


AttentionInterface.register(_NAME, _attend)


@contextlib.contextmanager
def _attention(config: Any) -> Iterator[None]:
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


@torch.inference_mode()
def agrees(packed: PackedBatch, padded: Any, tokens: Sequence[int]) -> bool:
    """Whether both batches give the same logits for rows of different lengths, and after a step and a row's leaving.

    Architectures differ in ways that no flag tells; where the packed batch is not known to be right, it is not used.
    """
    rows = [list(tokens[:1]), list(tokens[:4]), list(tokens[:2])]
    found = []
    try:
        for batch in (packed, padded):
            first = batch.start(rows, 2)
            batch.keep([0, 2])
            found.append(torch.cat([first, batch.step(torch.tensor([tokens[0]] * 2))]))
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError):
        return False
    mine, known = (logits.float() for logits in found)
    # What another order of additions makes of a number format; another architecture is off by the logits' whole spread.
    near = max(1e-3, 32 * torch.finfo(found[1].dtype).eps)
    return bool((mine - known).abs().max() <= near * known.std())
