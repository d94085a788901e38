"""The contrastive objective: known values, shared positives, a gathered gradient that is the whole batch's."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from actors.contrastive import contrastive_loss
from actors.distributed import gather
from actors.training_batch import positives


def test_perfect_pairs_cost_what_the_formula_says():
    eye = torch.eye(4)
    loss = contrastive_loss(eye, 3 * eye, torch.eye(4, dtype=torch.bool), torch.tensor(2.0))
    assert loss.item() == pytest.approx(math.log(math.exp(2) + 3) - 2)


def test_all_alike_costs_the_logarithm_of_the_batch():
    same = torch.ones(5, 3)
    assert contrastive_loss(same, same, torch.eye(5, dtype=torch.bool), torch.tensor(7.0)).item() == pytest.approx(
        math.log(5)
    )


def test_a_shared_caption_is_no_negative():
    """Two pictures of one caption: with both as positives, likeness of the two costs nothing more than must be."""
    pictures = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    scale = torch.tensor(50.0)
    shared = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    assert contrastive_loss(pictures, pictures, shared, scale).item() == pytest.approx(2 / 3 * math.log(2), abs=1e-4)
    lone = contrastive_loss(pictures, pictures, torch.eye(3, dtype=torch.bool), scale)
    sideways = torch.tensor([[1.0, 0.2], [1.0, -0.2], [0.0, 1.0]])
    assert contrastive_loss(sideways, sideways, torch.eye(3, dtype=torch.bool), scale) < lone
    assert contrastive_loss(sideways, sideways, shared, scale) > 2 / 3 * math.log(2)


def test_positives_are_the_captions_that_are_among_a_pictures_own():
    own = torch.tensor([[11, 12, 0], [12, 13, 0], [14, 0, 0]])
    assert positives(torch.tensor([11, 12, 14]), own).tolist() == [
        [True, True, False],
        [False, True, False],
        [False, False, True],
    ]


def test_two_workers_gather_the_gradient_of_the_whole_batch(tmp_path):
    mp.spawn(_worker, args=(2, tmp_path), nprocs=2)
    alone = _gradient(*_rows(), 1)
    for name, value in torch.load(tmp_path / "gradient.pt", weights_only=True).items():
        torch.testing.assert_close(value, alone[name], rtol=1e-6, atol=1e-9)


def _rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    pictures, words = (torch.randn(8, 6, generator=draw, dtype=torch.float64) for _ in range(2))
    caption = torch.tensor([1, 2, 3, 4, 5, 2, 7, 8])
    own = torch.stack([caption, torch.tensor([0, 0, 0, 0, 1, 0, 0, 3])], dim=1)
    return pictures, words, caption, own


def _gradient(
    pictures: torch.Tensor, words: torch.Tensor, caption: torch.Tensor, own: torch.Tensor, count: int
) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    towers = nn.ModuleDict({"image": nn.Linear(6, 4), "text": nn.Linear(6, 4)}).double()
    loss = contrastive_loss(
        gather(towers["image"](pictures)),
        gather(towers["text"](words)),
        positives(gather(caption), gather(own)),
        torch.tensor(5.0, dtype=torch.float64),
    )
    (loss * count).backward()
    return {name: parameter.grad for name, parameter in towers.named_parameters() if parameter.grad is not None}


def _worker(rank: int, count: int, directory: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=rank, world_size=count)
    gradient = _gradient(*(rows.chunk(count)[rank] for rows in _rows()), count)
    for value in gradient.values():
        dist.all_reduce(value)
        value.div_(count)  # what DDP does
    if rank == 0:
        torch.save(gradient, directory / "gradient.pt")
    dist.destroy_process_group()
