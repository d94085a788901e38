"""From a conversation to token ids, cut where the part that all requests share ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.contracts import Request, Turn

_MARK = "\u2063promptmill-request\u2063"  # invisible separators: no chat template and no recipe writes this

_PLAIN_ROLES = {"system": "", "user": "Request: ", "assistant": "Reply: "}


class Chat:
    """Tokenises requests against one context.

    The conversation is rendered once with a marker in place of the last user message; what stands before the marker
    is the prefix, what follows is the tail that opens the reply. Prefix, request and tail are tokenised *separately*:
    tokens that would merge across a cut do not, so the ids may differ from tokenising the whole text at once (with a
    chat template they rarely do, for special tokens and line ends stand at the cuts). What matters is that the prefix
    is the same ids for every request, else its state could not be shared.

    Args:
        tokenizer: a transformers tokenizer; without a chat template a plain ``Request:`` / ``Reply:`` dialogue is used.
        context: system text and few-shot turns.
    """

    def __init__(self, tokenizer: Any, context: Sequence[Turn]) -> None:
        self._tokenizer = tokenizer
        before, self._tail_text = _render(tokenizer, context)
        self.prefix: list[int] = self._ids(before, trusted=True)
        if not self.prefix:
            # The shared state must have something to be the state of.
            start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
            self.prefix = [start if start is not None else 0]

    def suffix(self, request: Request) -> list[int]:
        """The ids after the prefix: the request, the template's tail, and the reply's opening."""
        # The request is a stranger's text: "<|im_end|>" in it is eleven characters, not the end of a turn.
        asked = self._ids(request.text, trusted=False)
        return asked + self._ids(self._tail_text, trusted=True) + self.opening(request)

    def opening(self, request: Request) -> list[int]:
        """The ids that the reply is made to begin with."""
        return self._ids(request.opening, trusted=False) if request.opening else []

    def _ids(self, text: str, *, trusted: bool) -> list[int]:
        if not text:
            return []
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, split_special_tokens=not trusted)["input_ids"]
        return ids


def _render(tokenizer: Any, context: Sequence[Turn]) -> tuple[str, str]:
    """The conversation's text before and after the last user message."""
    turns = [*context, Turn("user", _MARK)]
    if not tokenizer.chat_template:
        lines = "".join(f"{_PLAIN_ROLES[turn.role]}{turn.text}\n" for turn in turns)
        before, _, after = lines.partition(_MARK)
        return (tokenizer.bos_token or "") + before, after + "Reply:"
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    try:
        text = _templated(tokenizer, messages)
    except Exception as error:
        # Some templates know no system role, and say so by raising jinja's error.
        if messages[0]["role"] != "system":
            raise ValueError(f"the chat template of the model cannot be used: {error}") from error
        system, first, *rest = messages
        text = _templated(tokenizer, [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest])
    before, mark, after = text.partition(_MARK)
    if not mark or _MARK in after:
        raise ValueError("the chat template of the model does not repeat the user's message once, as it stands")
    return before, after


def _templated(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text
