"""Ordering faults from Python, and a sandbox in a thread for tests. Blocking; standard library only."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from handrail_sandbox.errors import OrderRefusedError
from handrail_sandbox.server import Sandbox


class SandboxControl:
    """Orders faults at a running sandbox and asks what happened. `url` as `http://127.0.0.1:18080`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def order_faults(self, system: str, *rules: Mapping[str, Any]) -> None:
        """Replace the system's faults; see handrail_sandbox.faults.Rule. Raises OrderRefusedError."""
        self._ask("PUT", f"/_faults/{system}", list(rules))

    def mend(self, system: str) -> None:
        """Take all faults off the system."""
        self._ask("DELETE", f"/_faults/{system}")

    def faults(self) -> dict[str, list[dict[str, Any]]]:
        """The faults on order, with how often each was applied."""
        found: dict[str, list[dict[str, Any]]] = self._ask("GET", "/_faults")
        return found

    def honour_idempotency_keys(self, system: str, honoured: bool = True) -> None:
        """Let the system honour idempotency keys, or ignore them as it does at first."""
        self._ask("PUT", f"/_settings/{system}", {"idempotency": "honoured" if honoured else "ignored"})

    def summary(self) -> dict[str, Any]:
        """What happened at each system, in numbers."""
        found: dict[str, Any] = self._ask("GET", "/_books/summary")
        return found

    def ready(self, within_s: float = 60.0) -> bool:
        """Whether the server answers within this time."""
        until = time.monotonic() + within_s
        while True:
            try:
                self._ask("GET", "/_health")
            except OSError:
                if time.monotonic() >= until:
                    return False
                time.sleep(0.05)
            else:
                return True

    def _ask(self, method: str, path: str, body: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                raw = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise OrderRefusedError(f"{method} {path}: {error.read().decode(errors='replace')}") from error
        return json.loads(raw) if raw else None


@contextmanager
def running_sandbox(db: Path, port: int = 0) -> Iterator[SandboxControl]:
    """A sandbox in a thread of this process, on a free port unless one is given; ended and joined on leaving."""
    started: list[Sandbox] = []
    up = threading.Event()
    failed: list[BaseException] = []

    async def serve() -> None:
        sandbox = Sandbox(port, db)
        started.append(sandbox)
        up.set()
        await sandbox.serve()

    def in_thread() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
        finally:
            up.set()

    thread = threading.Thread(target=in_thread, name="sandbox")
    thread.start()
    up.wait()
    if not started:
        thread.join()
        raise failed[0]
    try:
        yield SandboxControl(started[0].url)
    finally:
        started[0].stop()
        thread.join()
    if failed:
        raise failed[0]
