"""Who watches a run: Prometheus, which reads a Ray node's metrics, and a collector, which takes spans over HTTP."""

from __future__ import annotations

import gzip
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def wait(enough: Callable[[], bool], timeout: float = 60.0) -> None:
    """Waits until ``enough``: processes tell what they know a little late. What is then missing the assertion says."""
    until = time.monotonic() + timeout
    while not enough() and time.monotonic() < until:
        time.sleep(0.2)


class Scraper:
    """Reads a node's metrics again and again, as Prometheus does; use as a context manager.

    Attributes:
        last: each series' last value, by name and labels.
    """

    def __init__(self, url: str) -> None:
        self._url, self.last = url, Series()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._scrape, daemon=True)

    def names(self, **labels: str) -> set[str]:
        """Of the series that have these labels."""
        return {name for name, has in self.last if labels.items() <= has}

    def total(self, name: str, **labels: str) -> float:
        """The sum of the series that have these labels, over the processes that tell them."""
        return sum(value for (found, has), value in self.last.items() if found == name and labels.items() <= has)

    def __enter__(self) -> Scraper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _scrape(self) -> None:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while not self._stop.wait(0.5):
            with direct.open(self._url, timeout=20) as answer:
                text = answer.read().decode()
            for family in text_string_to_metric_families(text):
                if "promptmill" in family.name:
                    for sample in family.samples:
                        self.last[sample.name, frozenset(sample.labels.items())] = sample.value


class Collector:
    """Takes spans as an OpenTelemetry collector does: OTLP over HTTP, in protocol buffers. Use as a context manager.

    Attributes:
        spans: all that came.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    spans.extend(span for scope in resource.scope_spans for span in scope.spans)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Collector:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
