"""Sheets of captions and pictures, on a machine that need not have a font."""

from __future__ import annotations

import pytest
import torch

from pipeline.sample_sheet import lay_out


@pytest.mark.parametrize(("one", "other"), [("猫", "狗"), ("貓", "狐"), ("é", "è"), ("一只猫", "一只狗")])
def test_two_captions_can_be_told_apart(one: str, other: str) -> None:
    picture = torch.zeros(1, 3, 64, 64)
    # A font without the letters draws the same box for each of them.
    assert lay_out([one], [picture], 1).tobytes() != lay_out([other], [picture], 1).tobytes()


@pytest.mark.parametrize("caption", ["一只猫在沙滩上玩耍" * 9, "a cat\nplaying\r\non the\tbeach, " * 9, "\n", ""])
def test_any_caption_is_one_line_of_its_pictures_width(caption: str) -> None:
    sheet = lay_out([caption], [torch.ones(2, 3, 64, 64)], 1)
    assert sheet.size == (2 * 64 + 8, 64 + 14 + 4)
    assert sheet.crop((2 * 64 + 6, 0, 2 * 64 + 8, 14)).getextrema() == ((255, 255),) * 3
