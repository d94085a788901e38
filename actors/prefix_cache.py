"""The key/value cache of a batch whose rows share a prefix: the prefix is copied in once, rows leave in place."""

from __future__ import annotations

import copy

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


class _InPlaceLayer(DynamicLayer):
    """One layer's keys and values in buffers of full size: a step writes its columns instead of copying all others.

    ``keys`` and ``values`` (the attributes that transformers reads) are views of the buffers: the first ``rows`` rows
    and the columns filled so far.
    """

    def __init__(self, prefix: DynamicLayer, rows: int, columns: int) -> None:
        super().__init__()
        self.buffers = []
        for state in (prefix.keys, prefix.values):
            _, heads, width, size = state.shape
            buffer = state.new_empty((rows, heads, columns, size))
            buffer[:, :, :width] = state
            self.buffers.append(buffer)
        self.dtype, self.device = prefix.keys.dtype, prefix.keys.device
        self.is_initialized = True
        self.show(rows, prefix.keys.shape[2])

    def show(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.keys, self.values = (buffer[:rows, :, :columns] for buffer in self.buffers)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new columns; transformers calls this once a layer and step."""
        end = self.columns + key_states.shape[2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[: self.rows, :, self.columns : end] = states
        self.show(self.rows, end)
        return self.keys, self.values


class PrefixCache:
    """A prefix's cache, lent to one batch after the other.

    Args:
        prefix: the state after the prefix, batch size 1, every layer plain (see `is_plain`).
        width: tokens in the prefix.

    Memory is ``rows x (width + own columns)`` positions; the buffers are kept between batches and grow when a batch
    needs more.
    """

    def __init__(self, prefix: DynamicCache, width: int) -> None:
        self._prefix, self.width = prefix, width
        self._room = (0, 0)
        self._layers: list[_InPlaceLayer] = []

    def lend(self, rows: int, columns: int) -> Cache:
        """A cache that holds the prefix for ``rows`` rows and has room for ``columns`` more tokens in each."""
        if rows > self._room[0] or columns > self._room[1]:
            room = max(rows, self._room[0]), max(columns, self._room[1])
            self.drop()  # before the new ones are made: both at once might not fit
            self._layers = [_InPlaceLayer(layer, room[0], self.width + room[1]) for layer in self._prefix.layers]
            self._room = room
        for layer in self._layers:
            layer.show(rows, self.width)
        return Cache(layers=list(self._layers))

    def keep(self, rows: list[int]) -> None:
        """Goes on with ``rows`` (indices into the present ones) alone, in that order.

        A row is moved without its prefix, which is the same in all of them. Rows must not move down past one another:
        ``rows[i] >= i``.
        """
        for layer in self._layers:
            for buffer in layer.buffers:
                for to, row in enumerate(rows):
                    if to != row:
                        buffer[to, :, self.width : layer.columns] = buffer[row, :, self.width : layer.columns]
            layer.show(len(rows), layer.columns)

    def drop(self) -> None:
        """Gives the buffers' memory back."""
        self._layers, self._room = [], (0, 0)


def is_plain(cache: Cache) -> bool:
    """True where every layer keeps all past tokens at their own column (no sliding window, no recurrent state)."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


class CopiedCache:
    """`PrefixCache` for models whose layers forget or fold the past: the stock cache, copied for each batch.

    Their columns are not positions, so rows of one batch must be equally long (no padding).
    """

    def __init__(self, prefix: DynamicCache, width: int) -> None:
        self._prefix, self.width = prefix, width
        self._cache: Cache | None = None

    def lend(self, rows: int, columns: int) -> Cache:
        """A copy of the prefix's cache, repeated for ``rows`` rows."""
        self._cache = copy.deepcopy(self._prefix)
        self._cache.batch_repeat_interleave(rows)
        return self._cache

    def keep(self, rows: list[int]) -> None:
        """Goes on with ``rows`` alone."""
        if self._cache is not None:
            self._cache.batch_select_indices(torch.tensor(rows))

    def drop(self) -> None:
        """Gives the copy's memory back."""
        self._cache = None
