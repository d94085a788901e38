"""The fault tests use the jobs' tiny models."""

from __future__ import annotations

from tests.jobs.conftest import tiny_gan

__all__ = ["tiny_gan"]
