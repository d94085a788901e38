"""A run that is ended from outside still leaves a sentence; one that ends by itself does not."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCK = "import os, signal, sys\nfrom pipeline.last_words import last_words\nwith last_words() as words:\n    {}"


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("os._exit(1)", 1, True),  # as Ray's core ends a driver whose head is gone
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, True),
        ("pass", 0, False),
        ("raise SystemExit(3)", 3, False),
    ],
)
def test_an_end_from_outside_has_a_sentence(end, status, said):
    done = subprocess.run(
        [sys.executable, "-c", BLOCK.format(end)], stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )
    assert done.returncode == status
    assert ("run the same command again to resume" in done.stderr) == said
    assert len(done.stderr.splitlines()) == int(said)


@pytest.mark.parametrize(("end", "said"), [("os._exit(1)", "promptmill: 磁盘 is full\n"), ("pass", "")])
def test_a_run_that_has_failed_is_remembered_by_its_reason(end, said):
    """Ray's core may end the process of a run that is leaving it: the reason must not be lost."""
    block = BLOCK.format(f"words.become('磁盘 is full'); {end}")
    done = subprocess.run([sys.executable, "-c", block], stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.stderr == said
