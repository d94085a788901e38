"""A proxy before an S3 server that does to requests what networks and busy servers do, each fault on demand.

It hands every request on as it came, the Host header too, since that is what the client has signed. Requests are
numbered from 1 as they arrive; a plan says which fault meets which request. Each connection carries one request.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

FAULTS = (
    "drop before",  # the request never reaches the store
    "drop reply",  # the store does it, the client never hears
    "late",  # the client is cut off at once; the store does it only after the client's next request on that object
    "cut upload",  # half of the request's body reaches the store
    "cut reply",  # the client gets half of the reply
    "409",  # another request on this name is under way
    "503",  # a burst: this request and the next ones are turned away
    "stall",  # nothing moves for a while
)
_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>told by the proxy</Message></Error>'
_REFUSALS = {
    "409": ("409 Conflict", "OperationAborted"),
    "503": ("503 Slow Down", "SlowDown"),
    "403": ("403 Forbidden", "AccessDenied"),  # no fault that passes: a right that was taken away
}
_MOST_WAIT = 5.0


@dataclass(frozen=True)
class Request:
    """One request of a client: its number, method and target, its head as it came, its body."""

    number: int
    method: str
    target: str
    head: bytes
    body: bytes


Plan = Callable[[Request], str | None]


class FaultProxy:
    """A proxy on a free loopback port, in a thread of its own. Use as a context manager.

    Args:
        upstream: URL of the server.
        stall: seconds of a ``stall``.
        burst: requests that one ``503`` turns away.

    Attributes:
        plan: which fault meets a request; None for none. May be changed at any time.
        requests: method and target of each request since `reset`.
        injected: (number, fault) of each fault since `reset`.
    """

    def __init__(self, upstream: str, stall: float = 5.0, burst: int = 3) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._stall, self._burst = stall, burst
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self.reset()

    def reset(self, plan: Plan = lambda request: None) -> None:
        """Begins to count anew, with another plan."""
        self.plan = plan
        self.requests: list[str] = []
        self.injected: list[tuple[int, str]] = []
        self._turned_away = 0
        self._arrivals: dict[str, asyncio.Event] = {}

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        start = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result(30)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        async def stop() -> None:
            self._server.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await self._receive(reader, writer)
            if request is not None:
                await self._answer(request, writer)
            writer.close()
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.transport.abort()

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None  # a connection that was opened ahead and never used
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        if _header(head, b"expect") is not None:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if _header(head, b"transfer-encoding") == b"chunked":
            body = b""
            while not body.endswith(b"\r\n0\r\n\r\n") and body != b"0\r\n\r\n":
                size = await reader.readuntil(b"\r\n")
                body += size + await reader.readexactly(int(size.split(b";")[0], 16) + 2)
        else:
            body = await reader.readexactly(int(_header(head, b"content-length") or 0))
        self.requests.append(f"{method} {target}")
        return Request(len(self.requests), method, target, head, body)

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        path = request.target.partition("?")[0]
        self._arrivals.pop(path, asyncio.Event()).set()
        fault = self.plan(request)
        if fault is None and self._turned_away > 0:
            self._turned_away -= 1
            fault = "503"
        elif fault is not None:
            self.injected.append((request.number, fault))
            self._turned_away = self._burst - 1 if fault == "503" else self._turned_away
        if fault == "drop before":
            writer.transport.abort()
        elif fault == "cut upload":
            await self._forward(request, request.body[: len(request.body) // 2])
            writer.transport.abort()
        elif fault == "late":
            writer.transport.abort()
            again = self._arrivals.setdefault(path, asyncio.Event())
            await asyncio.wait({asyncio.ensure_future(again.wait())}, timeout=_MOST_WAIT)
            await self._forward(request, request.body)
        elif fault in _REFUSALS:
            writer.write(_refusal(fault))
            await writer.drain()
        else:
            if fault == "stall":
                await asyncio.sleep(self._stall)
            reply = await self._forward(request, request.body)
            if fault == "drop reply":
                writer.transport.abort()
                return
            writer.write(reply[: _half(reply)] if fault == "cut reply" else reply)
            await writer.drain()

    async def _forward(self, request: Request, body: bytes) -> bytes:
        """Sends a request to the server, and returns all that it answers; a short body ends the connection."""
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            writer.write(_one_request(request.head) + body)
            await writer.drain()
            if len(body) < len(request.body):
                return b""
            return await reader.read(-1)
        finally:
            writer.close()


def _header(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip().lower()
    return None


def _one_request(head: bytes) -> bytes:
    """A request's head for a connection that ends with the reply, and for a server that is sent the body at once."""
    lines = head.rstrip(b"\r\n").split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in (b"connection", b"expect")]
    return b"\r\n".join([*kept, b"Connection: close", b"", b""])


def _half(reply: bytes) -> int:
    """Where to cut a reply: in the middle of its body, or of its head where it has none."""
    head = reply.find(b"\r\n\r\n") + 4
    return head + (len(reply) - head) // 2 if len(reply) > head + 1 else head // 2


def _refusal(fault: str) -> bytes:
    status, code = _REFUSALS[fault]
    body = _ERROR.format(code).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\nConnection: close"
    return head.encode() + b"\r\n\r\n" + body
