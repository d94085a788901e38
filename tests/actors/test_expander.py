"""Expander, recipes and checks through their public surface, with a tiny Llama of the real class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, RepetitionPenaltyLogitsProcessor

from actors.chat import Chat
from actors.checks import judge, kept_share, speaks
from actors.contracts import Generation, Request, Sampling, TextJob, Turn
from actors.engine_transformers import TransformersEngine
from actors.errors import BrokenEngine, UserError
from actors.expander import Expander
from actors.model_uri import resolve_model
from actors.recipes import load_recipe, parse_recipe, recipe_names
from tests import models


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
    model = resolve_model(str(models.save_llm(tmp_path_factory.mktemp("llm"))))
    return TransformersEngine(model, torch.device("cpu"), dtype="float32")


RECIPES = {name: load_recipe(name) for name in recipe_names()}


class Scripted:
    """An engine that answers as told, and counts what it is asked."""

    def __init__(self, answer: str = "resting near an open gate.", poison: str | None = None) -> None:
        self.asked: list[list[str]] = []
        self._answer, self._poison = answer, poison

    def generate(
        self, context: Sequence[Turn], requests: Sequence[Request], *, max_new_tokens: int, sampling: Sampling
    ) -> list[Generation]:
        self.asked.append([request.text for request in requests])
        if self._poison is not None and any(self._poison in request.text for request in requests):
            raise RuntimeError("a row that the model cannot bear")
        return [Generation(self._answer, "end", 5) for _ in requests]


def jobs(*prompts: str, recipe: str = "faithful") -> list[TextJob]:
    return [TextJob(prompt, recipe, 0, 1) for prompt in prompts]


def test_a_row_alone_gets_the_text_it_gets_in_a_batch(engine: TransformersEngine) -> None:
    context = [Turn("system", "describe"), Turn("user", "a red heart"), Turn("assistant", "A red heart, bold.")]
    requests = [Request(f"a green tree {'on the beach ' * (i % 4)}", "A tree,", i) for i in range(9)]
    for sampling in (Sampling(), Sampling(temperature=1.0, top_p=0.9), Sampling(repetition_penalty=1.3)):
        together = engine.generate(context, requests, max_new_tokens=12, sampling=sampling)
        for request, made in zip(requests, together, strict=True):
            (alone,) = engine.generate(context, [request], max_new_tokens=12, sampling=sampling)
            assert alone == made


def test_rows_lie_packed_in_bfloat16_as_in_float32(tmp_path: Path) -> None:
    """Its rounding is no sign of another architecture; padded, it would be slower than float32."""
    model = resolve_model(str(models.save_llm(tmp_path)))
    for dtype in ("float32", "bfloat16"):
        engine = TransformersEngine(model, torch.device("cpu"), dtype=dtype)
        made = engine.generate((Turn("user", "a red heart"),), [Request("a tree", "", 0)] * 2, max_new_tokens=4,
                               sampling=Sampling())  # fmt: skip
        assert engine._packs
        assert made[0].text == made[1].text


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_text_is_what_generate_writes_for_the_same_conversation(tmp_path: Path, penalty: float) -> None:
    """The shared prefix, the padding and the leaving rows change nothing: transformers' own loop, one row at a time."""
    model = resolve_model(str(models.save_llm(tmp_path)))
    engine = TransformersEngine(model, torch.device("cpu"), dtype="float32")
    context = [Turn("user", "a red heart"), Turn("assistant", "A red heart, bold.")]
    requests = [Request(f"a green tree {'on the beach ' * (i % 4)}", "A tree,", i) for i in range(9)]
    made = engine.generate(context, requests, max_new_tokens=12, sampling=Sampling(repetition_penalty=penalty))

    plain, words = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    chat = Chat(words, context)
    for request, generation in zip(requests, made, strict=True):
        ids = torch.tensor([chat.prefix + chat.suffix(request)])
        # The reply begins with its opening: what stands before it is not repeated by repeating it.
        before = ids.shape[1] - len(chat.opening(request))
        processor = RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=before)
        written = plain.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, logits_processor=[processor]
        )
        text = words.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
        assert generation.text == text.partition("\n")[0]


def test_identical_jobs_go_through_the_model_once_and_order_is_kept() -> None:
    engine = Scripted()
    made = Expander(engine, RECIPES, 8).expand(jobs("a cat", "a dog in the garden", "a cat"))
    assert sorted(text for batch in engine.asked for text in batch) == ["a cat", "a dog in the garden"]
    assert [d.text.split(",")[0] for d in made] == ["A cat", "A dog in the garden", "A cat"]
    assert [d.tokens for d in made] == [5, 5, 0]


def test_a_poison_row_falls_back_alone() -> None:
    made = Expander(Scripted(poison="bad"), RECIPES, 8).expand(jobs("a cat", "a bad thing", "a dog", "a tree"))
    assert [d.status for d in made] == ["accepted", "failed", "accepted", "accepted"]
    assert made[1].text == "a bad thing"


def test_a_broken_engine_is_nobodys_row() -> None:
    class Broken(Scripted):
        def generate(self, *args: object, **kwargs: object) -> list[Generation]:
            raise BrokenEngine("gone")

    with pytest.raises(BrokenEngine):
        Expander(Broken(), RECIPES, 8).expand(jobs("a cat"))


@pytest.mark.parametrize(
    ("prompt", "status"),
    [
        ("一只猫在沙滩上玩耍", "unsupported_language"),
        ("x" * 100_000, "too_long"),
        ("🐱🐶", "unsupported_language"),
        ("مرحبا بالعالم", "unsupported_language"),
        ("a cat\x00\x1b[31m on the beach", "accepted"),
    ],
)
def test_what_the_model_is_not_asked_stands_for_itself(prompt: str, status: str) -> None:
    (made,) = Expander(Scripted(), RECIPES, 8).expand(jobs(prompt))
    assert made.status == status
    assert (made.text == prompt) == (status != "accepted")
    assert "\x1b" not in made.text or status != "accepted"


@pytest.mark.parametrize(
    ("written", "stop", "status"),
    [
        ("curled up on a warm stone.", "end", "accepted"),
        ("", "end", "empty"),
        (" . ", "end", "empty"),
        ("I'm sorry, but I cannot describe this.", "end", "refused"),
        ("and then the", "length", "truncated"),
        ("curled up on a warm stone. Then the", "length", "accepted"),
        ("a red a red a red a red a red a red a red a red", "end", "echo"),
    ],
)
def test_output_checks(written: str, stop: str, status: str) -> None:
    made = Generation(written, stop, 5)  # type: ignore[arg-type]
    found, text = judge("a cat", "a cat", "A cat,", made, [])
    assert found == status
    assert (text == "") == (status != "accepted")
    assert not text or text.endswith(".")


def test_a_copy_of_an_example_is_an_echo_unless_the_request_asks_for_those_words() -> None:
    taught = ["A car, seen from the side in evening sun on an empty street."]
    made = Generation("seen from the side in evening sun.", "end", 5)
    assert judge("a dog", "a dog", "A dog,", made, taught)[0] == "echo"
    assert judge("a dog (seen from the side, evening sun)", "a dog", "A dog,", made, taught)[0] == "accepted"


def test_openings_read_as_a_sentence_does() -> None:
    assert load_recipe("photo").begin("A cat on a mat.") == "A photo of a cat on a mat,"
    assert load_recipe("faithful").begin("the Great Wall") == "The Great Wall,"


def test_drift_is_measured_by_the_prompts_content_words() -> None:
    assert judge("", "three dogs running", "", Generation("A table with flowers.", "end", 5), [])[0] == "drifted"
    assert judge("", "three dogs running", "", Generation("Three dogs run on grass.", "end", 5), [])[0] == "accepted"
    assert kept_share("一只猫", "一只猫在沙滩上") == 1.0
    assert kept_share("一只猫", "a dog") == 0.0


def test_scripts_and_languages() -> None:
    assert speaks("a café", ["en"])
    assert not speaks("一只猫", ["en"])
    assert speaks("一只猫", ["zh"])
    assert speaks("一只猫", None)


def test_five_recipes_ship_and_survive_their_canonical_text() -> None:
    assert {"faithful", "detailed", "photo", "art", "augment", "scene"} <= set(recipe_names())
    for recipe in RECIPES.values():
        assert parse_recipe(recipe.canonical()) == recipe
        assert recipe.about


def test_variants_take_the_axes_values_in_turn_whatever_the_prompt_holds() -> None:
    recipe = load_recipe("augment")
    asked = {recipe.request("a {light} {prompt}", variant)[0] for variant in range(5)}
    assert len(asked) == 5
    assert recipe.request("a cat", 1) == recipe.request("a cat", 1)


def test_recipes_of_ones_own_and_mistakes_in_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("languages: null\nsystem: s\nexamples: []\ntemplate: '{prompt}'\n")
    assert load_recipe(str(path)).name == "mine"
    path.write_text("languages: null\nsystem: s\nexamples: []\ntemplate: '{prompt}'\ntemprature: 1\n")
    with pytest.raises(UserError, match="temprature"):
        load_recipe(str(path))
    with pytest.raises(UserError, match="the nearest is 'photo'"):
        load_recipe("phto")


def test_prompts_longer_than_the_models_context_are_fallbacks(engine: TransformersEngine) -> None:
    made = engine.generate([], [Request("heart " * 3000, "", 0), Request("heart", "", 0)], max_new_tokens=4,
                           sampling=Sampling())  # fmt: skip
    assert made[0].stop == "no_room"
    assert made[1].stop != "no_room"
