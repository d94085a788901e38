"""How a run gets its Ray. What Ray does then is in tests/jobs and tests/cluster."""

from __future__ import annotations

import os
import socket

import pytest
import ray

from actors.errors import JobError, UserError
from pipeline.cluster import connected
from pipeline.config_running import Cluster


@pytest.mark.parametrize(("asked", "told"), [(None, "0"), ("1", "1")])
def test_a_local_ray_sends_its_makers_nothing_unless_asked(
    asked: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray reads the variable when it starts; here it does not come so far."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", asked or "")
    if asked is None:
        monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    found = []

    def start(**_: object) -> None:
        found.append(os.environ["RAY_USAGE_STATS_ENABLED"])
        raise RuntimeError("not now")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    with pytest.raises(JobError, match="not now"), connected(None, Cluster()):
        pass
    assert found == [told]


@pytest.mark.parametrize(
    ("address", "joined", "set_to", "told"),
    [(None, False, None, "0"), ("local", False, "1", "1"), ("ray://gone", False, None, None), (None, True, None, None)],
)
def test_training_asks_for_notice_of_preemption_but_on_a_ray_that_the_run_starts(
    address: str | None, joined: bool, set_to: str | None, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, found = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv(name, raising=False)
    if set_to is not None:
        monkeypatch.setenv(name, set_to)
    monkeypatch.setattr(ray, "is_initialized", lambda: joined)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", dict)
    with connected(address, Cluster()):
        found.append(os.environ.get(name))
    assert found == [told]
    assert os.environ.get(name) == set_to


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_listens_is_told_at_once(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself asks for minutes: it is not reached."""
    monkeypatch.setattr("pipeline.cluster._PATIENCE", 0.0)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{closed.getsockname()[1]}"
        with (
            pytest.raises(JobError, match=f"no Ray cluster answers at '{address}': .*refused"),
            connected(address, Cluster()),
        ):
            pass


def test_the_address_of_jobs_is_no_cluster_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked"))
    with pytest.raises(UserError, match="promptmill submit"), connected("http://127.0.0.1:8265", Cluster()):
        pass
