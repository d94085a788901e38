"""What a pool asks of Ray, and which nodes fit it. That Ray does it is in tests/cluster."""

from __future__ import annotations

import pytest

from pipeline.cluster import _fits
from pipeline.config_running import Actors
from pipeline.graph import pool


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({}, True),
        ({"place": "a"}, True),
        ({"place": "b"}, False),
        ({"place": "!b"}, True),
        ({"place": "!a"}, False),
        ({"place": "in(b,a)"}, True),
        ({"place": "in(b,c)"}, False),
        ({"place": "!in(b,a)"}, False),
        ({"other": "a"}, False),
        ({"other": "!a"}, True),
        ({"place": "a", "gpu": "!in(L4)"}, True),
    ],
)
def test_labels_fit_as_ray_reads_them(wanted: dict[str, str], fits: bool) -> None:
    assert _fits(Actors(labels=wanted).labels, {"place": "a", "gpu": "H100"}) is fits


def test_an_actor_has_no_more_shards_than_it_may() -> None:
    for asked, threads, at_once, inside in [(None, 2, 3, 2), (None, 1, 2, 1), (1, 2, 1, 1), (2, 2, 2, 2), (5, 2, 5, 2)]:
        strategy = pool(Actors(max_in_flight=asked), threads)["compute"]
        assert strategy.max_tasks_in_flight_per_actor == at_once
        assert strategy.max_concurrent_calls_per_actor == inside
        assert strategy.enable_true_multi_threading is (inside > 1)
    assert pool(Actors(labels={"place": "a"}), 1)["label_selector"] == {"place": "a"}
    assert "label_selector" not in pool(Actors(), 1)
