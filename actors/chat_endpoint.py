"""One request to an OpenAI-compatible chat endpoint, and what each kind of reply means.

Written for ``POST {base_url}/chat/completions`` as OpenAI documents it and vLLM, SGLang and Ray Serve LLM speak it. The
client is httpx2, which huggingface_hub brings along anyway: of the `openai` package nothing but this one route would be
used, and its own retries would have to be switched off.
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from dataclasses import dataclass
from typing import Any, Literal

import httpx2

from actors.errors import UserError

_TOO_LONG = re.compile(
    r"context.{0,20}(?:length|window|size)|maximum.{0,40}length|too (?:long|many tokens)", re.IGNORECASE
)
_FILTERED = re.compile(r"content.?(?:filter|policy)|moderation|safety", re.IGNORECASE)
_PLAIN = re.compile(r"[\w .-]{1,60}")
_ROUTE = "chat/completions"


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model wrote, why it stopped, and the tokens that are paid for."""

    text: str
    finish: str
    prompt_tokens: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """The endpoint will never answer this request: ``kind`` as `actors.contracts.Generation.stop` has it."""

    kind: Literal["no_room", "refused", "failed"]
    why: str = ""


class TryAgain(Exception):
    """No answer this time.

    Args:
        kind: ``busy`` (429, 503: fewer requests), ``away`` (no connection, a gateway without its server), ``broken``
            (this request made the server fail, or took too long).
        why: for people; holds no text of the request.
        pause: seconds that the server asks to wait; None where it does not say.
    """

    def __init__(self, kind: Literal["busy", "away", "broken"], why: str, pause: float | None = None) -> None:
        super().__init__(kind, why, pause)
        self.kind, self.why, self.pause = kind, why, pause


class ChatEndpoint:
    """A connection pool to one endpoint. Used from one event loop.

    Args:
        base_url: up to and with ``/v1``.
        key: sent as a bearer token; "" sends none. It is in no message of this class.
        key_name: where the key came from, for messages.
        timeout: seconds for one answer.
        connections: at most.
    """

    def __init__(self, base_url: str, key: str, key_name: str, *, timeout: float, connections: int) -> None:
        self._url, self._key_name = f"{base_url.rstrip('/')}/{_ROUTE}", key_name
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(timeout, connect=min(timeout, 10.0)),
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
        )

    async def ask(self, body: dict[str, Any]) -> Reply | Refusal:
        """Sends one request.

        Raises:
            TryAgain: there was no answer, and another try may get one.
            UserError: key, address or model are wrong.
        """
        try:
            response = await self._client.post(self._url, json=body)
        except httpx2.ReadTimeout:
            raise TryAgain("broken", "no answer in time") from None
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL):
            raise UserError("expand.openai.base_url is no http(s) URL: write http://host:port/v1") from None
        except httpx2.TransportError as error:
            # The error's text may quote the URL; its type says enough.
            raise TryAgain("away", type(error).__name__) from None
        status = response.status_code
        if status == 200:
            return _reply(response)
        if status in (401, 403):
            raise UserError(
                f"the endpoint refuses the key ({status}): set {self._key_name or 'expand.openai.key_env'} in the "
                "environment of each node that runs the expand stage"
            )
        if status == 404:
            raise UserError(
                f"the endpoint has no {_ROUTE} or does not serve this model (404): correct expand.openai.base_url or "
                "expand.model"
            )
        if status in (429, 503, 529):
            if _error(response)[0] == "insufficient_quota":
                raise UserError("the endpoint's account has no quota left (429): raise its limit, or use another key")
            raise TryAgain("busy", f"status {status}", retry_after(response.headers))
        if status in (502, 504):
            raise TryAgain("away", f"status {status}", retry_after(response.headers))
        if status in (408, 409, 425) or status >= 500:
            raise TryAgain("broken", f"status {status}", retry_after(response.headers))
        return _refusal(response)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


def retry_after(headers: httpx2.Headers | dict[str, str]) -> float | None:
    """Seconds of a ``Retry-After`` header (RFC 9110, 10.2.3: seconds or a date), or of OpenAI's ``retry-after-ms``."""
    try:
        if (told := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(told) / 1000)
        if (told := headers.get("retry-after")) is None:
            return None
        if told.strip().replace(".", "", 1).isdigit():
            return float(told)
        return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time())
    except ValueError:
        return None


def _reply(response: httpx2.Response) -> Reply | Refusal:
    try:
        told = response.json()
        choice = told["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason") or "stop"
        used = told.get("usage") or {}
        if finish == "content_filter" or message.get("refusal"):
            return Refusal("refused")
        return Reply(
            str(message.get("content") or ""), finish, int(used.get("prompt_tokens") or 0),
            int(used.get("completion_tokens") or 0),
        )  # fmt: skip
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise TryAgain("broken", "an answer that is no chat completion") from None


def _refusal(response: httpx2.Response) -> Refusal:
    code, param, message = _error(response)
    if _TOO_LONG.search(f"{code} {message}") or response.status_code == 413:
        return Refusal("no_room")
    if _FILTERED.search(f"{code} {message}"):
        return Refusal("refused")
    # The message may quote the prompt: only what is a plain name of a field or of a kind of error is told.
    told = [text for text in (code, param) if _PLAIN.fullmatch(text)]
    return Refusal("failed", f"status {response.status_code}" + (f", {', '.join(told)}" if told else ""))


def _error(response: httpx2.Response) -> tuple[str, str, str]:
    """(code or type, parameter, message) of an error's body; "" for what it does not say."""
    try:
        told = response.json()
        told = told.get("error", told)
        code, kind, param, message = (told.get(name) for name in ("code", "type", "param", "message"))
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        return "", "", response.text[:2000]
    # vLLM repeats the status as the code.
    name = code if isinstance(code, str) and not code.isdigit() else kind
    return str(name or ""), str(param or ""), str(message or "")
