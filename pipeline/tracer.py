"""Spans by OpenTelemetry's SDK, imported only by processes that trace (`pipeline.traces`)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from opentelemetry import context, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

_PATIENCE_MS = 2000
"""Milliseconds that a finished shard may wait for the collector: the actor may be gone a moment later."""

Counts = Mapping[str, int | str]


class _Ids(RandomIdGenerator):
    """Random ids, but those of a root, which follow from run and shard."""

    def __init__(self) -> None:
        self.known = threading.local()

    def generate_span_id(self) -> int:
        root: SpanContext | None = getattr(self.known, "root", None)
        return super().generate_span_id() if root is None else root.span_id

    def generate_trace_id(self) -> int:
        root: SpanContext | None = getattr(self.known, "root", None)
        return super().generate_trace_id() if root is None else root.trace_id


class Tracer:
    """Makes and exports the spans of one process.

    Args:
        fingerprint: of the run.
        otlp: URL of a collector; its usual path is added where it has none.
        directory: gets a file of JSON lines from each process.
        run, actor: stand beside each span.
    """

    def __init__(self, fingerprint: str, otlp: str | None, directory: str | None, run: str, actor: str) -> None:
        about = {"service.name": "promptmill", "service.instance.id": actor, "promptmill.run": run}
        self._fingerprint, self._ids = fingerprint, _Ids()
        self._left = threading.Event()
        self._provider = TracerProvider(resource=Resource.create(about), id_generator=self._ids)
        if directory is not None:
            Path(directory).mkdir(parents=True, exist_ok=True)
            file = (Path(directory) / f"spans-{run}-{actor}-{os.getpid()}.jsonl").open("a")
            lines = ConsoleSpanExporter(out=file, formatter=lambda span: span.to_json(indent=None) + "\n")
            self._provider.add_span_processor(SimpleSpanProcessor(lines))
        if otlp is not None:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            url = otlp if urlsplit(otlp).path.strip("/") else f"{otlp.rstrip('/')}/v1/traces"
            exporter = OTLPSpanExporter(endpoint=url, timeout=_PATIENCE_MS / 1000)
            self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=500))
            threading.Thread(target=self._send, name="send spans", daemon=True).start()
        self._tracer = self._provider.get_tracer("promptmill")

    @contextlib.contextmanager
    def of_shard(self, shard: int) -> Iterator[None]:
        """See `pipeline.traces.of_shard`."""
        root = trace.NonRecordingSpan(self._root(shard))
        token = context.attach(trace.set_span_in_context(root))
        try:
            yield
        finally:
            context.detach(token)
            self._left.set()

    @contextlib.contextmanager
    def span(self, name: str, counts: Counts) -> Iterator[None]:
        """See `pipeline.traces.span`."""
        # An error's message may quote a prompt or a credential: its class alone is told.
        with self._tracer.start_as_current_span(
            name, attributes=_attributes(counts), record_exception=False, set_status_on_exception=False
        ) as current:
            try:
                yield
            except BaseException as error:
                current.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise

    def finish_shard(self, shard: int, began: float | None, counts: Counts) -> None:
        """See `pipeline.traces.finish_shard`."""
        self._ids.known.root = self._root(shard)
        try:
            root = self._tracer.start_span(
                "shard",
                context=context.Context(),
                start_time=None if began is None else int(began * 1e9),
                attributes=_attributes({"shard": shard, **counts}),
            )
        finally:
            self._ids.known.root = None
        root.end()
        self._provider.force_flush(_PATIENCE_MS)

    def _send(self) -> None:
        # A pool that has described its last shard is ended at once, long before the batch's own delay is over.
        while True:
            self._left.wait()
            self._left.clear()
            self._provider.force_flush(_PATIENCE_MS)

    def _root(self, shard: int) -> SpanContext:
        digest = hashlib.sha256(f"{self._fingerprint}/{shard}".encode()).digest()
        return SpanContext(
            trace_id=int.from_bytes(digest[:16], "big"),
            span_id=int.from_bytes(digest[16:24], "big"),
            is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )


def _attributes(counts: Counts) -> dict[str, int | str]:
    return {f"promptmill.{name}": value for name, value in counts.items()}
