"""Checks of what the language model wrote. What does not pass is replaced by the prompt, and the status says why.

accepted              the description is used
empty                 nothing, or nothing beyond the prompt
refused               the model declined or spoke of itself, or a content filter withheld the reply
truncated             cut off with no whole sentence or clause to keep
echo                  the instructions or a few-shot example came back, or the text goes round in circles
malformed             the recipe asks for fields, and the reply is no such object
drifted               fewer than half of the prompt's content words are in it
unsupported_language  the prompt's script is none of the recipe's languages; the model was not asked
too_long              the prompt is longer than the model can take; the model was not asked
failed                the model, or the endpoint, failed on this prompt alone
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from actors.contracts import Generation

MAX_PROMPT_CHARS = 1200

_REFUSALS = re.compile(
    r"\b(i'?m sorry|i am sorry|i can(?:no|')t|i am unable|i'm unable|as an ai|as a language model|i am an ai)\b"
    r"|抱歉|我不能|作为一个?(?:人工智能|语言模型)",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"<\|[^|>]*\|>|</?s>|\[/?INST\]")
_SENTENCE_END = re.compile(r"[.!?。！？](?=\s|$|[\"'”’])")
_CLAUSE_END = re.compile(r"[,;，；](?=\s|$)")
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_STOP_TEXT = """
a an the of in on at to for with and or but is are was were be been being by from as it its this that these those there
here into onto over under up down out off near next very some any no not do does did has have had his her their our your
my who which what when where how two one i you he she they we s t
"""
_STOP = frozenset(_STOP_TEXT.split())
_COPIED = 5
"""Words in a row that make a copy of an instruction or example; shorter runs are just English."""


def clean(text: str) -> str:
    """One line of printable text: no chat markup, control or format characters, runs of white space made one."""
    text = _MARKUP.sub(" ", text)
    kept = (" " if ch.isspace() else ch for ch in text if ch.isspace() or unicodedata.category(ch) not in {"Cc", "Cs"})
    return " ".join("".join(kept).split())


def speaks(prompt: str, languages: Sequence[str] | None) -> bool:
    """Whether the prompt's script is one of the recipe's languages: ``zh`` is Han, every other one is Latin.

    The script of most letters decides; a prompt without letters (emoji, digits) is nobody's language.
    """
    if languages is None:
        return True
    letters = [ch for ch in prompt if ch.isalpha()]
    if not letters:
        return False
    han = sum(bool(_HAN.match(ch)) for ch in letters)
    latin = sum("LATIN" in unicodedata.name(ch, "") for ch in letters)
    if 2 * han > len(letters):
        return "zh" in languages
    return 2 * latin > len(letters) and any(language != "zh" for language in languages)


def judge(asked: str, prompt: str, opening: str, made: Generation, taught: Iterable[str]) -> tuple[str, str]:
    """(status, description) of one generation; the description is "" unless the status is ``accepted``.

    Args:
        asked: the request's text: the prompt, and what the recipe asks to be said of it.
        prompt: what the description must keep naming.
        opening: the words that the reply was made to begin with.
        made: what the model wrote after them.
        taught: instructions and examples that must not come back.
    """
    if made.stop == "no_room":
        return "too_long", ""
    if made.stop in {"refused", "failed"}:
        return made.stop, ""
    written = clean(made.text)
    if not written.strip(" .,;:!?-"):
        return "empty", ""
    if _REFUSALS.search(written):
        return "refused", ""
    if made.stop == "length":
        written = _whole(written)
        if not written:
            return "truncated", ""
    text = clean(f"{opening} {written}" if opening else written)
    if text.rstrip(" .").casefold() == clean(prompt).rstrip(" .").casefold():
        return "empty", ""
    if _echoes(written, asked, taught):
        return "echo", ""
    if kept_share(prompt, text) < 0.5:
        return "drifted", ""
    return "accepted", text if text[-1] in ".!?。！？\"'”" else f"{text.rstrip(',;: ')}."


def kept_share(prompt: str, text: str) -> float:
    """Share of the prompt's content words that the text names; 1.0 for a prompt without any.

    Words are compared by light stems (plural, -ed, -ing, -ly cut off) in lower case; Han text by single characters.
    """
    wanted = _content(prompt)
    return len(wanted & _content(text)) / len(wanted) if wanted else 1.0


def missing_words(prompt: str, text: str) -> list[str]:
    """The prompt's content words that the text does not name, as the prompt has them, in its order."""
    there = _content(text)
    words = (word for word in _WORD.findall(_HAN.sub(" ", prompt)) if word.casefold() not in _STOP)
    lost = [word for word in words if _stem(word.casefold()) not in there]
    return list(dict.fromkeys([*lost, *(sign for sign in _HAN.findall(prompt) if sign not in there)]))


def _content(text: str) -> set[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = {_stem(word) for word in _WORD.findall(_HAN.sub(" ", folded)) if word not in _STOP}
    return words | set(_HAN.findall(folded))


def _stem(word: str) -> str:
    word = word.removesuffix("'s")
    for ending in ("ingly", "edly", "ing", "ies", "ed", "ly", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _whole(text: str) -> str:
    """The text up to its last whole sentence, or else up to its last whole clause, closed with a full stop."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    if ends:
        return text[: ends[-1]]
    clauses = [match.start() for match in _CLAUSE_END.finditer(text)]
    return f"{text[: clauses[-1]]}." if clauses and len(text[: clauses[-1]].split()) >= 3 else ""


def _echoes(written: str, asked: str, taught: Iterable[str]) -> bool:
    """Whether the reply goes round in circles, or hands back the words that it was taught with.

    Words that the request itself asks for are no copies, wherever else they stand.
    """
    words = _words(written)
    runs = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    if any(runs.count(run) >= 3 for run in set(runs)):
        return True
    wanted = set(_words(asked))
    copied = _runs(words, _COPIED) & {run for line in taught for run in _runs(_words(line), _COPIED)}
    return any(sum(word not in wanted for word in run) > _COPIED // 2 for run in copied)


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _runs(words: list[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}
