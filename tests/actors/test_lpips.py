"""LPIPS against torchmetrics' own, on the same AlexNet; real ImageNet weights are not needed to compare formulas."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchmetrics.functional.image import lpips as reference

from actors.errors import UserError
from actors.lpips import Lpips, alexnet_file
from tests.models import save_alexnet


def torchvisions(weights: Path) -> nn.Sequential:
    """`torchvision.models.alexnet().features` with the weights of a file; torchvision itself is not installed."""
    from safetensors.torch import load_file

    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(True), nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(True),
        nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(True), nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(True),
        nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    found = load_file(weights)
    features.load_state_dict(
        {name.removeprefix("features."): tensor for name, tensor in found.items() if name.startswith("features.")}
    )
    return features


def test_it_is_torchmetrics_on_the_same_alexnet(tmp_path, monkeypatch):
    weights = save_alexnet(tmp_path / "alexnet.safetensors")
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda net, pretrained: torchvisions(weights))
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(3, 3, 64, 80, generator=generator) for _ in range(2))
    known = reference.learned_perceptual_image_patch_similarity(
        first, second, net_type="alex", reduction="none", normalize=True
    )
    ours = Lpips(weights)
    torch.testing.assert_close(ours(first, second), known, rtol=1e-4, atol=1e-7)
    assert ours(first, first).abs().max() == 0
    assert (ours(first, first * 0.9) < ours(first, second)).all()


def test_other_weights_are_one_sentence(tmp_path):
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="is no AlexNet"):
        Lpips(tmp_path / "other.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(UserError, match="is no AlexNet"):
        Lpips(tmp_path / "torn.safetensors")
    with pytest.raises(UserError, match="no safetensors file"):
        alexnet_file(str(tmp_path))
