"""Tiny models for the jobs' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import models


@pytest.fixture(scope="session")
def tiny_gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save_gan(tmp_path_factory.mktemp("gan"))


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save_llm(tmp_path_factory.mktemp("llm"))
