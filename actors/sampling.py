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


def said_already(replies: Sequence[Sequence[int]], vocabulary: int, sampling: Sampling) -> torch.Tensor | None:
    """Which tokens each reply holds, as bool (rows, vocabulary); None where the sampling does not ask for it."""
    if sampling.repetition_penalty == 1:
        return None
    said = torch.zeros((len(replies), vocabulary), dtype=torch.bool)
    for row, reply in enumerate(replies):
        said[row, list(reply)] = True
    return said


def next_tokens(
    logits: torch.Tensor,
    sampling: Sampling,
    generators: Sequence[torch.Generator],
    said: torch.Tensor | None = None,
) -> torch.Tensor:
    """The next token of each row.

    Args:
        logits: (rows, vocabulary), any float dtype.
        sampling: first the repetition penalty; then temperature 0 takes the likeliest token, any other cuts to top-k,
            then to top-p, and draws once.
        generators: one a row, from `row_generators`; each is advanced by one number.
        said: from `said_already`; the tokens chosen here are added to it.

    Returns:
        Token ids, shape (rows,), dtype int64.
    """
    if said is None:
        return _draw(logits, sampling, generators)
    weaker = torch.where(logits > 0, logits / sampling.repetition_penalty, logits * sampling.repetition_penalty)
    drawn = _draw(torch.where(said, weaker, logits), sampling, generators)
    said[torch.arange(len(drawn), device=said.device), drawn] = True
    return drawn


def _draw(logits: torch.Tensor, sampling: Sampling, generators: Sequence[torch.Generator]) -> torch.Tensor:
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
