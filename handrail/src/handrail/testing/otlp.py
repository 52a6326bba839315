"""A collector of traces for tests: OTLP over HTTP (protobuf), in a thread, on a free port."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from handrail.telemetry import SERVICE_PREFIX

TRACES = "/v1/traces"


@dataclass(frozen=True, slots=True)
class Span:
    """One span as the collector got it.

    Ids are hex; `parent` is None for a root; times in ns since the epoch; `links` are the traces and ids of linked spans.
    """

    service: str
    name: str
    trace: str
    id: str
    parent: str | None
    kind: int
    start_ns: int
    end_ns: int
    failed: bool
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...] = ()

    @property
    def operation(self) -> str:
        """`<service>.<operation>`, such as "ingest.process"."""
        return f"{self.service}.{self.name.partition(' ')[0]}"


class Collector:
    """Gathers spans until it is closed. Use it as a context manager; set OTEL_EXPORTER_OTLP_ENDPOINT to `endpoint`."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._arrived = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def spans(self) -> list[Span]:
        """All spans so far."""
        with self._arrived:
            return list(self._spans)

    def wait_until(self, holds: Callable[[list[Span]], bool], within_s: float = 30.0) -> list[Span]:
        """The spans as soon as this holds of them, or those that came until the time was over."""
        with self._arrived:
            self._arrived.wait_for(lambda: holds(self._spans), within_s)
            return list(self._spans)

    def wait_for(self, wanted: set[tuple[str, str]], within_s: float = 30.0) -> set[tuple[str, str]]:
        """The edges as soon as all of `wanted` are among them, or those that came until the time was over."""
        return edges(self.wait_until(lambda spans: wanted <= edges(spans), within_s))

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, request: ExportTraceServiceRequest) -> None:
        """Take what an exporter sent."""
        with self._arrived:
            self._spans.extend(_decoded(request))
            self._arrived.notify_all()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path != TRACES:
                    self._answer(404, b"")
                    return
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.add(ExportTraceServiceRequest.FromString(body))
                self._answer(200, ExportTraceServiceResponse().SerializeToString())

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is http.server's
                """Say nothing: the tests' output is not for this."""

        return Handler


def edges(spans: Iterable[Span]) -> set[tuple[str, str]]:
    """Which operation is the parent of which: ("ingest.process", "transform.process"), ..."""
    by_id = {(span.trace, span.id): span for span in spans}
    pairs = ((by_id.get((span.trace, span.parent or "")), span) for span in by_id.values())
    return {(parent.operation, span.operation) for parent, span in pairs if parent is not None}


def _decoded(request: ExportTraceServiceRequest) -> list[Span]:
    found = []
    for resource in request.resource_spans:
        service = str(_attributes(resource.resource.attributes).get("service.name", ""))
        for scope in resource.scope_spans:
            for span in scope.spans:
                found.append(
                    Span(
                        service=service.removeprefix(SERVICE_PREFIX),
                        name=span.name,
                        trace=span.trace_id.hex(),
                        id=span.span_id.hex(),
                        parent=span.parent_span_id.hex() or None,
                        kind=span.kind,
                        start_ns=span.start_time_unix_nano,
                        end_ns=span.end_time_unix_nano,
                        failed=span.status.code == span.status.STATUS_CODE_ERROR,
                        attributes=_attributes(span.attributes),
                        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    )
                )
    return found


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}
