"""The cluster's tests use the jobs' tiny models."""

from tests.jobs.conftest import tiny_gan, tiny_llm

__all__ = ["tiny_gan", "tiny_llm"]
