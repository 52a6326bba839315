"""What a process says to those who ask over HTTP: `/live`, `/ready`, `/metrics`. Cached values only."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from handrail.errors import ConfigError
from handrail.vitals import Vitals

_TEXT, _JSON = "text/plain; charset=utf-8", "application/json"


class HealthServer:
    """Answers on a thread of its own until closed.

    `/live` is 200 while the process can answer: its watchdog ends it when a stage hangs. `/ready` is 200, or 503 with the
    reasons, as JSON. `/metrics` is Prometheus' text format.
    """

    def __init__(self, address: str, vitals: Callable[[], Sequence[Vitals]], registry: CollectorRegistry) -> None:
        """Listen on `host:port` (port 0: any that is free). Raises ConfigError when it can't."""
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigError(f"HANDRAIL_HTTP={address!r}: write host:port, 0.0.0.0:9464 say")
        try:
            self._server = ThreadingHTTPServer((host, int(port)), _handler(vitals, registry))
        except (OSError, OverflowError) as error:
            raise ConfigError(f"HANDRAIL_HTTP={address!r}: can't listen there: {error}") from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def listening(
    address: str | None, vitals: Callable[[], Sequence[Vitals]], registry: CollectorRegistry
) -> Iterator[None]:
    """Answer at `address` while the block runs; None: nobody is answered. Raises ConfigError when it can't listen."""
    if address is None:
        yield
        return
    server = HealthServer(address, vitals, registry)
    structlog.get_logger().info("answers", http=f"{address.rpartition(':')[0]}:{server.port}")
    try:
        yield
    finally:
        server.close()


def readiness(vitals: Sequence[Vitals]) -> dict[str, object]:
    """The body of `/ready`."""
    stages = [
        {
            "stage": one.stage,
            "phase": one.phase,
            "ready": not one.reasons(),
            "reasons": list(one.reasons()),
            "partitions": list(one.partitions),
            "lag": sum(one.lag.values()),
            "waiting": one.waiting,
        }
        for one in vitals
    ]
    return {"ready": bool(stages) and all(each["ready"] for each in stages), "stages": stages}


def _handler(vitals: Callable[[], Sequence[Vitals]], registry: CollectorRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/live":
                self._answer(200, _TEXT, b"live\n")
            elif path == "/ready":
                said = readiness(vitals())
                self._answer(200 if said["ready"] else 503, _JSON, json.dumps(said).encode() + b"\n")
            elif path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest(registry))
            else:
                self._answer(404, _TEXT, b"there are /live, /ready and /metrics\n")

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that the library gives it
            """Who asks how we are is no news."""

    return Handler
