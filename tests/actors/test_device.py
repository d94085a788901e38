"""An actor's threads, and what an error says of its device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from actors.device import is_device_lost, is_out_of_memory, use_resources


@pytest.fixture(autouse=True)
def same_threads_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("cpus", "threads"), [(0.1, 1), (0.5, 1), (1.0, 1), (1.4, 1), (1.5, 2), (2.0, 2)])
def test_threads_follow_the_cpus(cpus: float, threads: int) -> None:
    assert use_resources(cpus, 0).type == "cpu"
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("error", "memory", "lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True, False),
        (RuntimeError("CUDA error: out of memory"), True, False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True, False),
        (RuntimeError("CUDA error: device-side assert triggered"), False, True),
        (RuntimeError("shapes do not match"), False, False),
        (ValueError("CUDA error in a prompt"), False, False),
    ],
)
def test_memory_that_is_short_is_told_from_a_device_that_is_lost(error: Exception, memory: bool, lost: bool) -> None:
    assert (is_out_of_memory(error), is_device_lost(error)) == (memory, lost)
