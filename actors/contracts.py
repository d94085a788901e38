"""What the parts of an actor promise one another: jobs in, pictures out, and the place that takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.errors import RowError

Pixels = NDArray[np.uint8]
"""One RGB image, shape (height, width, 3), dtype uint8."""


@dataclass(frozen=True, slots=True)
class TextJob:
    """One description to write: a prompt, the recipe's name, the variant's index, and the sampling seed.

    ``emphasis`` are words that the description must not lose ("" for none in particular).
    """

    prompt: str
    recipe: str
    variant: int
    seed: int
    emphasis: str = ""


@dataclass(frozen=True, slots=True)
class Description:
    """The text for one prompt and variant.

    ``status`` is ``"accepted"``, or says why the prompt itself stands in ``text`` (see `actors.checks`).
    ``tokens`` counts what the model generated for it, ``prompt_tokens`` what an endpoint read for it and charges; 0
    where the text was taken over from an identical job.
    """

    text: str
    status: str
    tokens: int
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ImageJob:
    """One image to render. ``seed`` (0 .. 2**63-1) alone decides its noise; sizes in pixels, None = the model's own.

    ``picture`` and ``mask`` are encoded files to go on from, where the model mends pictures: the mask is white where it
    is to paint.
    """

    image_id: str
    text: str
    negative_text: str | None
    seed: int
    width: int | None
    height: int | None
    picture: bytes | None = None
    mask: bytes | None = None


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One finished file: ``data`` in the run's image encoding with its marks inside; sizes in pixels."""

    data: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation; ``role`` is ``"system"``, ``"user"`` or ``"assistant"``."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Request:
    """One reply to write.

    ``text`` is the last user message. ``opening`` are the words that the reply must begin with ("" = none); the
    model goes on from there. ``seed`` (0 .. 2**63-1) alone decides the draws; greedy decoding ignores it.
    """

    text: str
    opening: str
    seed: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn; ``temperature`` 0 is greedy.

    ``repetition_penalty`` above 1 makes tokens that the reply already has less likely (Keskar et al., "CTRL", 2019).
    ``fields``: the reply is a JSON object of these strings and nothing else (`actors.structured`); without an opening.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """What the model wrote after the request's opening, and why it stopped.

    ``stop``: ``"end"`` the model ended its line, ``"length"`` ``max_new_tokens`` cut it off, ``"no_room"`` the
    request is longer than the model's context, so that nothing was generated, ``"refused"`` a filter before or behind
    the model withheld the reply, ``"failed"`` the engine could not answer this request alone. ``tokens`` were
    generated, ``prompt_tokens`` read where that is paid for. ``whole``: the text is the whole reply, and does not go
    on from the request's opening.
    """

    text: str
    stop: Literal["end", "length", "no_room", "refused", "failed"]
    tokens: int
    prompt_tokens: int = 0
    whole: bool = False


class Engine(Protocol):
    """Runs a language model. One instance an actor process."""

    def generate(
        self, context: Sequence[Turn], requests: Sequence[Request], *, max_new_tokens: int, sampling: Sampling
    ) -> list[Generation]:
        """Answers each request as the next turn of ``context``, in one line each; one `Generation` each, in order.

        ``context`` (system text, few-shot turns) is the same in call after call, so its state is worth keeping. A
        text depends on its own request alone, never on its neighbours. Raises `BrokenEngine` (the caller's process
        ends) or anything else (the caller isolates the poison row); out of memory is the engine's own business.
        """
        ...


class Backend(Protocol):
    """Renders images. One instance an actor process; not thread-safe, the caller serialises."""

    def check(self, job: ImageJob) -> None:
        """Raises `RowError` where this backend cannot make the job (a size, an empty text)."""
        ...

    def render(self, jobs: Sequence[ImageJob]) -> list[Pixels]:
        """Renders one micro-batch, in order.

        An image depends on its own job alone, never on its neighbours. Raises `torch.OutOfMemoryError` (the caller
        halves), `BrokenEngine` (the caller's process ends), or anything else (the caller isolates the poison row).
        """
        ...


class ImageSink(Protocol):
    """Where the generator puts what it made of one shard; filled in by the data plane. Called from several threads."""

    def add(self, index: int, image: EncodedImage) -> None:
        """Takes the finished image of job number ``index``."""
        ...

    def fail(self, index: int, error: RowError) -> None:
        """Takes the reason why job number ``index`` could not be made."""
        ...
