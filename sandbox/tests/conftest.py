"""A sandbox on a free port, and a caller that sees what an HTTP client sees."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from handrail_sandbox.books import Books
from handrail_sandbox.client import SandboxControl, running_sandbox


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


class Caller:
    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc

    def call(self, method: str, path: str, body: Any = None, *, timeout: float = 10, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self._address, timeout=timeout)
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, data, {"Content-Type": "application/json", **sent})
            answer = connection.getresponse()
            raw = answer.read()
            headers_back = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, headers_back, json.loads(raw) if raw else None)
        finally:
            connection.close()

    def invoice(self, reference: str, total_minor: int = 100, **headers: str) -> Answer:
        body = {"reference": reference, "customer_id": "7", "total_minor": total_minor, "currency": "EUR"}
        return self.call("POST", "/billing/invoices", body, **headers)

    def lookup(self, reference: str) -> Answer:
        return self.call("GET", f"/billing/invoices?reference={reference}")


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "books" / "sandbox.sqlite"


@pytest.fixture
def sandbox(db: Path) -> Iterator[SandboxControl]:
    with running_sandbox(db) as control:
        yield control


@pytest.fixture
def caller(sandbox: SandboxControl) -> Caller:
    return Caller(sandbox.url)


@pytest.fixture
def make_caller() -> Callable[[SandboxControl], Caller]:
    return lambda control: Caller(control.url)


@pytest.fixture
def books(sandbox: SandboxControl, db: Path) -> Iterator[Books]:
    with Books(db) as reader:
        yield reader
