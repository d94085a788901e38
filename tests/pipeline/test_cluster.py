"""How a run gets its Ray. What Ray does then is in tests/jobs and tests/cluster."""

from __future__ import annotations

import os

import pytest
import ray

from actors.errors import JobError
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
