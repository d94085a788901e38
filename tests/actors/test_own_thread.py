"""A model's calls in one thread, whoever asks."""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from actors.own_thread import OwnThread


def test_all_calls_run_in_one_thread_that_is_none_of_the_callers() -> None:
    own = OwnThread()
    with ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(own, threading.get_ident) for _ in range(20)]
        found = {one.result() for one in asked} | {own(threading.get_ident)}
    assert len(found) == 1
    assert threading.get_ident() not in found


def test_arguments_results_and_errors_pass() -> None:
    own = OwnThread()
    assert own(int, "ff", base=16) == 255
    with pytest.raises(ZeroDivisionError):
        own(divmod, 1, 0)
    with pytest.raises(SystemExit):
        own(exit, 3)
    assert own(int, "7") == 7


def test_what_the_caller_knows_of_its_shard_is_known_there() -> None:
    shard = contextvars.ContextVar[int]("shard")
    own = OwnThread()
    shard.set(4)
    assert own(shard.get) == 4
