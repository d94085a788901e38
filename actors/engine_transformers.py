"""The engine ``transformers``: batched decoding on a shared prefix, each row as if it were alone."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from actors.chat import Chat
from actors.contracts import Generation, Request, Sampling, Turn
from actors.device import is_device_lost, is_out_of_memory
from actors.errors import BrokenEngine
from actors.language_model import load_language_model
from actors.model_uri import LocalModel
from actors.packed_batch import PackedBatch, agrees
from actors.packed_linear import pack_linears
from actors.padded_batch import Batch, PaddedBatch
from actors.prefix_cache import CopiedCache, PrefixCache, is_plain
from actors.sampling import next_tokens, row_generators, said_already

_CALL = 4  # micro-batches of one call on a CPU
_Lot = list[tuple[int, Request, list[int]]]  # (index of the request, request, its suffix ids)


class TransformersEngine:
    """Runs any causal language model that transformers can load; see `actors.contracts.Engine`.

    The prefix that a context's requests share goes through the model once; its keys and values serve every later
    batch. Finished rows leave the batch at once, and a batch that does not fit in memory is halved. On a CPU rows lie
    packed where the model allows it (`actors.packed_batch`), else they are padded between prefix and request.

    Args:
        model: where the model lies.
        device: where it runs.
        dtype: see `actors.language_model.load_language_model`.
        batch_rows: rows that are read together (and padded together, where they are).
        cache: where converted GGUF weights are kept; ``None`` means the default.

    Raises:
        UserError: the model cannot be loaded.
    """

    def __init__(
        self,
        model: LocalModel,
        device: torch.device,
        *,
        dtype: str = "auto",
        batch_rows: int = 32,
        cache: Path | None = None,
    ) -> None:
        self._model, self._tokenizer = load_language_model(model, device, dtype, cache)
        self._device, self._batch_rows = device, batch_rows
        if device.type == "cpu":
            pack_linears(self._model)
        accepted = inspect.signature(self._model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        # Only the last position's logits are wanted; over a whole prompt they are the largest tensor of all.
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        config = self._model.config.get_text_config()
        self._room: int | None = getattr(config, "max_position_embeddings", None)
        self._ends = _end_tokens(self._model, self._tokenizer)
        self._breaks: set[int] | None = None
        self._packs: bool | None = None  # not known before the first context
        self._context: tuple[Turn, ...] | None = None
        self._chat: Chat
        self._batch: Batch
        self._width = 0  # tokens in the prefix

    @property
    def call_rows(self) -> int:
        """Requests that one call of `generate` should be given, for speed.

        On a CPU a step costs nearly the same for one row and for a hundred: the weights come from memory once.
        """
        return _CALL * self._batch_rows if self._device.type == "cpu" else self._batch_rows

    def generate(
        self, context: Sequence[Turn], requests: Sequence[Request], *, max_new_tokens: int, sampling: Sampling
    ) -> list[Generation]:
        """See `actors.contracts.Engine.generate`. One batch, or several where memory is short."""
        try:
            self._prepare(tuple(context))
            results: dict[int, Generation] = {}
            lot: _Lot = []
            for index, request in enumerate(requests):
                ids = self._chat.suffix(request)
                if self._room is not None and self._width + len(ids) + max_new_tokens > self._room:
                    results[index] = Generation("", "no_room", 0)
                else:
                    lot.append((index, request, ids))
            for part in self._lots(lot):
                self._run(part, max_new_tokens, sampling, results)
        except RuntimeError as error:
            if is_device_lost(error):
                raise BrokenEngine(f"the language model's device failed: {type(error).__name__}") from error
            raise
        return [results[index] for index in range(len(requests))]

    @torch.inference_mode()
    def _prepare(self, context: tuple[Turn, ...]) -> None:
        """Runs the context's prefix through the model, unless it is the one at hand."""
        if context == self._context:
            return
        if self._context is not None:
            self._context = None
            self._batch.drop()
        chat = Chat(self._tokenizer, context)
        if self._room is not None and len(chat.prefix) >= self._room:
            raise ValueError(
                f"the recipe's {len(chat.prefix)} tokens do not fit in the model's context of {self._room}"
            )
        cache = DynamicCache(config=self._model.config)
        ids = torch.tensor([chat.prefix], device=self._device)
        self._model(input_ids=ids, past_key_values=cache, use_cache=True, **self._last_only)
        # Rows of different lengths need a position for each token and columns that can be masked.
        self._pads = is_plain(cache) and self._takes_positions
        self._width = len(chat.prefix)
        shared = PrefixCache(cache, self._width) if self._pads else CopiedCache(cache, self._width)
        padded = PaddedBatch(
            self._model, shared, masked=self._pads, takes_positions=self._takes_positions, extra=self._last_only
        )
        self._batch = padded
        if self._device.type == "cpu" and self._pads and self._last_only and self._packs is not False:
            packed = PackedBatch(self._model, cache, self._width, self._batch_rows)
            if self._packs is None:
                self._packs = agrees(packed, padded, chat.prefix)
            self._batch = packed if self._packs else padded
        self._chat, self._context = chat, context

    def _lots(self, lot: _Lot) -> list[_Lot]:
        """The batches: all rows where they lie packed, else as many as are asked for, of one length without padding."""
        if self._packs and self._pads:
            return [lot] if lot else []
        groups: dict[int, _Lot] = {}
        for row in lot:
            groups.setdefault(0 if self._pads else len(row[2]), []).append(row)
        rows = self._batch_rows
        return [group[start : start + rows] for group in groups.values() for start in range(0, len(group), rows)]

    def _run(self, lot: _Lot, max_new_tokens: int, sampling: Sampling, results: dict[int, Generation]) -> None:
        """Decodes a batch into ``results``; halves it for as long as memory runs out."""
        try:
            made = self._decode(lot, max_new_tokens, sampling)
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(lot) == 1:
                raise
            made = None
        if made is not None:
            results.update(made)
            return
        # Outside the handler: the exception's traceback would keep the failed batch's tensors alive.
        self._batch.drop()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        middle = len(lot) // 2
        self._run(lot[:middle], max_new_tokens, sampling, results)
        self._run(lot[middle:], max_new_tokens, sampling, results)

    @torch.inference_mode()
    def _decode(self, lot: _Lot, max_new_tokens: int, sampling: Sampling) -> dict[int, Generation]:
        logits = self._batch.start([ids for _, _, ids in lot], max_new_tokens)
        generators = row_generators([request.seed for _, request, _ in lot], sampling)
        openings = [self._chat.opening(request) for _, request, _ in lot]
        said: torch.Tensor | None = None
        breaks = self._line_breaks()
        alive = list(range(len(lot)))
        written: list[list[int]] = [[] for _ in lot]
        made: dict[int, Generation] = {}
        for step in range(max_new_tokens):
            if step == 0:
                said = said_already(openings, logits.shape[1], sampling)
                said = None if said is None else said.to(self._device)
            drawn = next_tokens(logits, sampling, [generators[row] for row in alive] if generators else [], said)
            stay = []
            for slot, token in enumerate(drawn.tolist()):
                row = alive[slot]
                mine = written[row]
                if token in self._ends or (token in breaks and mine):
                    made[lot[row][0]] = self._generation(mine, "end", len(mine) + 1)
                    continue
                mine.append(token)
                if len(mine) == max_new_tokens:
                    made[lot[row][0]] = self._generation(mine, "length", len(mine))
                else:
                    stay.append(slot)
            if not stay:
                break
            if len(stay) < len(alive):
                stay = _fill_holes(stay)
                self._batch.keep(stay)
                chosen = torch.tensor(stay, device=self._device)
                drawn = drawn[chosen]
                said = None if said is None else said[chosen]
                alive = [alive[slot] for slot in stay]
            logits = self._batch.step(drawn)
        return made

    def _generation(self, ids: list[int], stop: Any, tokens: int) -> Generation:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return Generation(text, stop, tokens)

    def _line_breaks(self) -> set[int]:
        """Tokens that hold a line end: a reply is one line, so they end it (unless they come first)."""
        if self._breaks is None:
            texts = self._tokenizer.batch_decode([[token] for token in range(len(self._tokenizer))])
            self._breaks = {token for token, text in enumerate(texts) if "\n" in text}
        return self._breaks


def _fill_holes(stay: list[int]) -> list[int]:
    """The slots that stay, ordered so that as few as possible move: the last ones fill the holes."""
    count = len(stay)
    late = [slot for slot in stay if slot >= count]
    early = set(stay) - set(late)
    return [slot if slot in early else late.pop() for slot in range(count)]


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """All tokens that end a reply, by the generation config and by the tokenizer."""
    ends: set[int] = set()
    for said in (getattr(model.generation_config, "eos_token_id", None), tokenizer.eos_token_id):
        if said is not None:
            ends.update(said if isinstance(said, list) else [said])
    return ends
