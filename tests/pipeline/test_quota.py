"""Who gets a place where only so many shards may be under way: the rule alone, without any cluster."""

from __future__ import annotations

import asyncio

from pipeline.quota import _QuotaActor


async def turns(times: int = 20) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


def test_places_belong_to_shards_and_a_done_shard_takes_none_again() -> None:
    async def play() -> None:
        quota = _QuotaActor(2)
        await quota.admit(0)
        await quota.admit(1)
        await quota.admit(1)  # a read that is done again
        stale, third = asyncio.ensure_future(quota.admit(2)), asyncio.ensure_future(quota.admit(3))
        await turns()
        assert [stale.done(), third.done()] == [False, False]
        await quota.release(0)
        await turns()
        assert (stale.done(), third.done()) == (True, False)
        again = asyncio.ensure_future(quota.admit(2))  # its first reader died
        await turns()
        assert again.done()
        await quota.release(1)
        await quota.release(2)
        await third
        await quota.admit(2)  # a reader that waited for a shard which another one brought home
        assert quota._under_way == {3}

    asyncio.run(play())


def test_a_reader_that_waited_while_its_shard_was_done_takes_no_place() -> None:
    async def play() -> None:
        quota = _QuotaActor(1)
        await quota.admit(0)
        dead, alive = asyncio.ensure_future(quota.admit(1)), asyncio.ensure_future(quota.admit(1))
        await turns()
        await quota.release(1)  # as another driver's dataset brings it
        await asyncio.gather(dead, alive)
        assert quota._under_way == {0}

    asyncio.run(play())
