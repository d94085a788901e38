"""The window of requests: grows by answers, halves once for one event, and waits as long as it is told to."""

from __future__ import annotations

import asyncio

import pytest

from actors.aimd import Aimd


class Time:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def test_it_doubles_until_the_first_refusal_and_then_grows_by_one_a_windowful() -> None:
    limit = Aimd(64, start=4)
    for _ in range(4):
        limit.answered()
    assert limit.window == 8
    limit.refused(0)
    assert limit.window == 4
    for _ in range(4):
        limit.answered()
    assert limit.window == 4, "four answers are not quite one more place: the steps shrink as the window grows"
    limit.answered()
    assert limit.window == 5
    for _ in range(1000):
        limit.answered()
    assert limit.window <= 64


def test_requests_that_were_refused_together_halve_it_once() -> None:
    limit = Aimd(64, start=32)
    for _ in range(10):
        limit.refused(0)
    assert limit.window == 16
    limit.refused(1)
    assert limit.window == 8
    for epoch in range(2, 20):
        limit.refused(epoch)
    assert limit.window == 1


def test_never_more_are_under_way_than_the_window_has_places() -> None:
    limit = Aimd(3, start=3)
    under_way = most = 0

    async def one() -> None:
        nonlocal under_way, most
        async with limit.turn():
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1

    async def many() -> None:
        await asyncio.gather(*(one() for _ in range(50)))

    asyncio.run(many())
    assert (most, under_way) == (3, 0)


def test_a_pause_holds_all_turns_and_a_cancelled_wait_gives_its_place_back() -> None:
    async def scene() -> None:
        time = Time()
        limit = Aimd(1, start=1, clock=lambda: time.now, sleep=time.sleep)
        async with limit.turn() as epoch:
            limit.refused(epoch, pause=5.0)
            limit.refused(epoch, pause=2.0)
        async with limit.turn() as epoch:
            assert time.now == 5.0
            assert epoch == 1
            waiting = asyncio.ensure_future(limit.turn().__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with limit.turn():
            pass

    asyncio.run(asyncio.wait_for(scene(), 10))


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Aimd(0)
