"""A stall is what the others do not do; a process that was stopped itself has seen none."""

from __future__ import annotations

from pipeline.silence import Silence


def test_what_the_process_slept_through_is_no_stall() -> None:
    now = [0.0]
    silence = Silence(lambda: now[0])
    for _ in range(100):
        now[0] += 0.5
        silence.seconds()
    assert silence.seconds() == 50
    now[0] += 3600  # stopped past its successor's finish
    assert silence.seconds() == 60
    silence.broken()
    now[0] += 2
    assert silence.seconds() == 2
