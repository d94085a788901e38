"""What an actor does on a node that is to go, without any node; the real one is in tests/cluster."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

import pytest

from pipeline.draining import Draining, Inside

Made = Callable[[], tuple[Draining, list[float], "queue.Queue[str]"]]


@pytest.fixture
def made() -> Made:
    """An actor's watch, the notice that it may get, and what it says when it leaves."""

    def made() -> tuple[Draining, list[float], queue.Queue[str]]:
        notice: list[float] = []
        left: queue.Queue[str] = queue.Queue()
        watch = Draining(
            "generate", lambda: notice[0] if notice else None, lambda stage, why: left.put(why), every=0.002
        )
        return watch, notice, left

    return made


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_shard_that_will_be_finished_in_time_is_finished_and_the_next_one_never_begins(made: Made) -> None:
    watch, notice, left = made()
    begun = threading.Event()

    def late() -> None:
        with watch.shard():
            begun.set()

    with watch.shard() as inside:
        inside.counts(10, lambda: 9)
        notice.append(float("inf"))
        until(lambda: watch._going)
        threading.Thread(target=late, daemon=True).start()
        assert left.empty()
    assert left.get(timeout=60) == "its node is to go, nothing was under way"
    assert not begun.is_set()


def test_a_shard_that_cannot_be_finished_is_given_back_at_once_but_not_one_beside_it_that_can(made: Made) -> None:
    watch, notice, left = made()
    with watch.shard() as hopeless:
        with watch.shard() as short:
            short.counts(10, lambda: 10)
            hopeless.counts(1000, lambda: 1)
            hopeless._since = time.time() - 60
            notice.append(time.time() + 3600)
            until(lambda: watch._going)
            assert left.empty()
        assert left.get(timeout=60) == "its node is to go, 1 shard(s) given back"


def test_nobody_leaves_a_node_that_stays(made: Made) -> None:
    watch, notice, left = made()
    for _ in range(3):
        with watch.shard():
            pass
    time.sleep(0.05)
    assert left.empty()
    assert not notice
    assert not watch._going


def test_the_pace_says_what_is_finished_by_then() -> None:
    inside, now = Inside(), time.time()
    assert inside.ends_by(now + 60)  # nothing is known of its pace: until the deadline itself
    assert not inside.ends_by(now - 1)
    inside.counts(100, lambda: 50)
    inside._since = now - 100
    assert inside.ends_by(now + 110)
    assert not inside.ends_by(now + 90)
