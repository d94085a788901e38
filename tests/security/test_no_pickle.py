"""No file of a stranger runs code: a corpus of hostile models, tables and checkpoints, opened under an audit hook."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.security.corpus import CANARY

# Members of a tar that are neither picture nor words are passed over.
HARMLESS = {"members.tar"}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("corpus")
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.open_corpus", str(root)],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return root, json.loads(done.stdout.splitlines()[-1])


def test_nothing_is_unpickled_run_or_fetched(opened: tuple[Path, dict[str, Any]]) -> None:
    root, told = opened
    assert len(told["ended"]) > 55
    assert told["seen"] == []
    assert not (root / CANARY).exists()


def test_each_ends_in_a_sentence(opened: tuple[Path, dict[str, Any]]) -> None:
    _, told = opened
    for name, end in told["ended"].items():
        if name in HARMLESS:
            assert end == "opened", (name, end)
        else:
            assert end.startswith(("UserError: ", "ValueError: ")), (name, end)
            assert "\n" not in end, name


def test_what_needs_trust_says_how_to_give_it(opened: tuple[Path, dict[str, Any]]) -> None:
    _, told = opened
    for name in (
        "llm-only-pytorch_model.bin", "llm-own-code", "llm-own-tokenizer", "llm-adapter", "features-evil.pt",
        "llm-attn_implementation", "llm-_attn_implementation_internal", "llm-trust_remote_code",
        "diffusers-own-part", "diffusers-pickled-part",
    ):  # fmt: skip
        assert "allow_unsafe_models: true" in told["ended"][name], (name, told["ended"][name])
