"""The engine `openai` against a real HTTP server with a real model behind it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from actors.chat_endpoint import retry_after
from actors.contracts import Request, Sampling, TextJob, Turn
from actors.engine_openai import OpenAIEngine
from actors.engine_settings import OpenAISettings
from actors.errors import JobError, UserError
from actors.expander import Expander
from actors.recipes import Recipe, load_recipe
from tests import models
from tests.chat_server import MODEL, ChatServer

CONTEXT = [Turn("user", "a red heart"), Turn("assistant", "A red heart, bold.")]
REQUESTS = [Request(f"a green tree {'on the beach ' * (i % 4)}", "A tree,", i) for i in range(24)]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save_llm(tmp_path_factory.mktemp("llm"))


@pytest.fixture
def server(llm: Path) -> Iterator[ChatServer]:
    with ChatServer(llm) as server:
        yield server


def engine(server: ChatServer, **settings: Any) -> OpenAIEngine:
    return OpenAIEngine(OpenAISettings(server.base_url, settings.pop("model", MODEL), **settings))


def ask(engine: OpenAIEngine, *texts: str, sampling: Sampling | None = None) -> list[Any]:
    requests = [Request(text, "", number) for number, text in enumerate(texts)]
    return engine.generate(CONTEXT, requests, max_new_tokens=4, sampling=sampling or Sampling())


@pytest.mark.parametrize("sampling", [Sampling(repetition_penalty=1.3), Sampling(temperature=1.0, top_p=0.9, top_k=50)])
def test_each_row_gets_what_the_model_writes_for_it_alone_with_its_own_seed(
    server: ChatServer, sampling: Sampling
) -> None:
    """The same conversation, opening, sampling and seed reach the model as with the engine `transformers`."""
    made = engine(server, opening="continue").generate(CONTEXT, REQUESTS, max_new_tokens=12, sampling=sampling)
    known = server.engine.generate(CONTEXT, REQUESTS, max_new_tokens=12, sampling=sampling)
    for one, other in zip(made, known, strict=True):
        assert one.text.strip() == other.text.strip()
        assert (one.tokens, one.prompt_tokens, one.whole) == (other.tokens, 7, False)


def test_a_server_that_answers_429_is_asked_less_at_once_and_no_row_is_lost(llm: Path) -> None:
    with ChatServer(llm, places=2, retry_after="0.05") as server:
        made = ask(engine(server), *(f"a tree number {i}" for i in range(60)))
    assert {one.stop for one in made} <= {"end", "length"}
    assert server.statuses[200] == 60
    assert server.statuses[429] > 0
    assert server.most < 60


def test_what_the_endpoint_refuses_is_that_rows_matter(server: ChatServer) -> None:
    server.poison = {"poison": 500, "strange": 422}
    own = engine(server, attempts=2)
    made = ask(own, "a forbidden thing", "a tree", "heart " * 3000, "poison", "strange")
    assert [one.stop for one in made] == ["refused", made[1].stop, "no_room", "failed", "failed"]
    assert made[1].stop in {"end", "length"}
    recipe = load_recipe("faithful")
    jobs = [TextJob(prompt, "faithful", 0, 1) for prompt in ("a forbidden thing", "poison")]
    described = Expander(own, {"faithful": recipe}, 8).expand(jobs)
    assert [(one.text, one.status) for one in described] == [
        ("a forbidden thing", "refused"), ("poison", "failed")
    ]  # fmt: skip


def test_passing_failures_are_asked_again(server: ChatServer) -> None:
    server.fail = {500: 2, 503: 2, 502: 1}  # type: ignore[assignment]
    made = ask(engine(server), "a tree", "a heart", "a cat")
    assert {one.stop for one in made} <= {"end", "length"}
    assert server.statuses[200] == 3


def test_an_endpoint_that_is_down_ends_in_one_sentence_and_not_in_rejects(llm: Path) -> None:
    with ChatServer(llm) as server:
        assert len(ask(engine(server), "a tree")) == 1
        own = engine(server, patience=1.0)
    with pytest.raises(JobError, match=r"answered nobody for 1 s.*run again to resume"):
        ask(own, *(f"a tree number {i}" for i in range(300)))


def test_an_endpoint_that_refuses_everybody_ends_the_job_and_names_the_field(server: ChatServer) -> None:
    server.poison = {"tree": 400}
    with pytest.raises(
        JobError, match=r"8 requests in a row failed at the endpoint .*status 400, bad_request, top_k"
    ) as e:
        ask(engine(server), *(f"a tree {'x' * i}" for i in range(50)))
    assert "cannot take" not in str(e.value), "the endpoint's own words quote the prompt"
    assert len(server.seen) < 50


def test_a_long_pause_is_not_waited_for(llm: Path) -> None:
    with (
        ChatServer(llm, places=0, retry_after="86400") as server,
        pytest.raises(JobError, match="asks to wait for 86400 s"),
    ):
        ask(engine(server), "a tree")


def test_wrong_key_model_and_address_are_the_users_mistakes(llm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ChatServer(llm, key="the-key-canary") as server:
        monkeypatch.setenv("LLM_KEY", "another-canary")
        with pytest.raises(UserError, match="set LLM_KEY in the environment") as raised:
            ask(engine(server, key_env="LLM_KEY"), "a tree")
        assert "canary" not in str(raised.value)
        monkeypatch.setenv("LLM_KEY", "the-key-canary")
        assert ask(engine(server, key_env="LLM_KEY"), "a tree")
        with pytest.raises(UserError, match=r"404.*expand\.model"):
            ask(engine(server, key_env="LLM_KEY", model="nobodys"), "a tree")
    with pytest.raises(UserError, match="http://host:port/v1"):
        OpenAIEngine(OpenAISettings("localhost:1/v1", MODEL)).generate([], REQUESTS[:1], max_new_tokens=1,
                                                                       sampling=Sampling())  # fmt: skip


def test_a_recipe_with_fields_is_answered_in_fields(server: ChatServer) -> None:
    recipe = Recipe(
        name="staged", languages=None, system="Describe in JSON.", examples=[], template="{prompt}",
        fields=["subject", "light"], compose="{subject}, in {light}",
    )  # fmt: skip
    (made,) = Expander(engine(server), {"staged": recipe}, 8).expand([TextJob("a tree", "staged", 0, 1)])
    assert (made.text, made.status) == ("subject of a tree, in light of a tree.", "accepted")
    asked = server.seen[-1]["response_format"]["json_schema"]["schema"]
    assert asked["required"] == ["subject", "light"]
    assert asked["additionalProperties"] is False


def test_fields_of_the_body_are_added_and_null_takes_one_out(server: ChatServer) -> None:
    ask(engine(server, body={"chat_template_kwargs": {"enable_thinking": False}, "top_k": None}), "a tree",
        sampling=Sampling(1.0, top_k=5))  # fmt: skip
    assert server.seen[-1]["chat_template_kwargs"] == {"enable_thinking": False}
    assert "top_k" not in server.seen[-1]


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after({"retry-after": "3"}) == 3
    assert retry_after({"retry-after-ms": "250"}) == 0.25
    assert 8 < (retry_after({"retry-after": formatdate(time.time() + 10, usegmt=True)}) or 0) <= 10
    assert retry_after({"retry-after": formatdate(time.time() - 10, usegmt=True)}) == 0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None
