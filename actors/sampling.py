"""Drawing the next token: one row's draws come from its own generator, so no neighbour can change its text."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from actors.contracts import Sampling


def row_generators(seeds: Sequence[int], sampling: Sampling) -> list[torch.Generator]:
    """One CPU generator a row (draws are the same on every device); none for greedy decoding, which needs none."""
    if sampling.temperature == 0:
        return []
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def next_tokens(logits: torch.Tensor, sampling: Sampling, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """The next token of each row.

    Args:
        logits: (rows, vocabulary), any float dtype.
        sampling: temperature 0 takes the likeliest token; else top-k, then top-p, then one draw.
        generators: one a row, from `row_generators`; each is advanced by one number.

    Returns:
        Token ids, shape (rows,), dtype int64.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    vocabulary = logits.shape[-1]
    kept = min(sampling.top_k, vocabulary) if sampling.top_k > 0 else vocabulary
    values, tokens = torch.topk(logits.float(), kept, dim=-1)
    chances = torch.softmax(values / sampling.temperature, dim=-1)
    cumulated = chances.cumsum(dim=-1)
    if sampling.top_p < 1:
        # The nucleus is the shortest head of the list that reaches top_p: a token stays while those before it do not.
        chances = chances.masked_fill(cumulated - chances >= sampling.top_p, 0.0)
        cumulated = chances.cumsum(dim=-1)
    # One uniform number a row, looked up in the row's cumulated chances. `torch.multinomial` would draw for the whole
    # batch from one generator, and a row's text would hang on who sits beside it.
    draws = torch.stack([torch.rand((), generator=generator) for generator in generators]).to(logits.device)
    places = torch.searchsorted(cumulated, (draws * cumulated[:, -1]).unsqueeze(1), right=True)
    # Rounding may put a draw just past the last kept token.
    last = (chances > 0).sum(dim=-1, keepdim=True) - 1
    return tokens.gather(1, torch.minimum(places, last)).squeeze(1)
