"""A small real chat endpoint: HTTP on loopback, a tiny Llama behind it, and the replies that busy servers give."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from actors.contracts import Request, Sampling, Turn
from actors.engine_transformers import TransformersEngine
from actors.model_uri import resolve_model

MODEL = "tiny-llama"


class ChatServer:
    """Serves ``/v1/chat/completions`` on a free port while the block runs.

    Args:
        model: the directory of a language model.
        key: asked for as a bearer token; "" asks for none.
        places: requests served at once; more are answered with 429.
        retry_after: what 429 and 503 tell, as the header has it; None tells nothing.
    """

    def __init__(self, model: Path, *, key: str = "", places: int = 1000, retry_after: str | None = None) -> None:
        self.engine = TransformersEngine(resolve_model(str(model)), torch.device("cpu"), dtype="float32")
        self.key, self.places, self.retry_after = key, places, retry_after
        self.fail: Counter[int] = Counter()  # status -> how many requests it answers next
        self.poison: dict[str, int] = {}  # word in a request -> status
        self.seen: list[dict[str, Any]] = []
        self.statuses: Counter[int] = Counter()
        self.most = 0
        self._under_way = 0
        self._lock, self._model = threading.Lock(), threading.Lock()

    def __enter__(self) -> ChatServer:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def _answer(self, body: dict[str, Any], authorization: str | None) -> tuple[int, dict[str, Any]]:
        if self.key and authorization != f"Bearer {self.key}":
            return 401, {"error": {"message": "bad key", "code": "invalid_api_key"}}
        if body["model"] != MODEL:
            return 404, {"error": {"message": f"no model {body['model']}", "code": "model_not_found"}}
        asked = body["messages"][-1]["content"] if body["messages"][-1]["role"] == "user" else ""
        with self._lock:
            self.seen.append(body)
            for status in list(self.fail):
                if self.fail[status] > 0:
                    self.fail[status] -= 1
                    return status, {"error": {"message": "not now"}}
        if "forbidden" in asked:
            return 400, {"error": {"message": f"'{asked}' triggered the content policy", "code": "content_filter"}}
        for word, status in self.poison.items():
            if word in asked:
                return status, {"error": {"message": f"cannot take '{asked}'", "param": "top_k", "type": "bad_request"}}
        *context, last = (Turn(one["role"], one["content"]) for one in body["messages"])
        opening = ""
        if body.get("continue_final_message"):
            opening, last, context = last.text, context[-1], context[:-1]
        sampling = Sampling(
            body["temperature"], body["top_p"], body.get("top_k", 0), body.get("repetition_penalty", 1.0)
        )
        request = Request(last.text, opening, body["seed"])
        with self._model:
            (made,) = self.engine.generate(context, [request], max_new_tokens=body["max_tokens"], sampling=sampling)
        if made.stop == "no_room":
            return 400, {"error": {"message": "This model's maximum context length is 2048 tokens", "code": 400}}
        text = made.text
        if "response_format" in body:
            schema = body["response_format"]["json_schema"]["schema"]
            text = json.dumps({name: f"{name} of {last.text}" for name in schema["properties"]})
        return 200, {
            "choices": [{"message": {"role": "assistant", "content": text},
                         "finish_reason": "length" if made.stop == "length" else "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": made.tokens},
        }  # fmt: skip

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path != "/v1/chat/completions":
                    return self._send(404, {"error": {"message": "no such route"}})
                with server._lock:
                    server._under_way += 1
                    server.most = max(server.most, server._under_way)
                    full = server._under_way > server.places
                try:
                    if full:
                        return self._send(429, {"error": {"message": "too many", "code": "rate_limit_exceeded"}})
                    return self._send(*server._answer(body, self.headers.get("Authorization")))
                finally:
                    with server._lock:
                        server._under_way -= 1

            def _send(self, status: int, answer: dict[str, Any]) -> None:
                server.statuses[status] += 1
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                if status in (429, 503) and server.retry_after is not None:
                    self.send_header("Retry-After", server.retry_after)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *given: object) -> None:
                pass

        return Handler
