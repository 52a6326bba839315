"""What a system answers, as a value, and errors as problem details (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

PROBLEM = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Effect:
    """One thing that a system did. `amount_minor` is in minor units of `currency`, None where no money moved."""

    kind: str
    reference: str
    amount_minor: int | None = None
    currency: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, JSON body and headers of an answer, and the effects that it stands for."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    effects: tuple[Effect, ...] = ()


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> Reply:
    """An error as problem details. `more` are extension members, such as `errors`."""
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    return Reply(status, body, headers or {})


def response(reply: Reply) -> Response:
    """The reply as it goes over the wire."""
    return Response(
        json.dumps(reply.body, separators=(",", ":"), ensure_ascii=False).encode(),
        status_code=reply.status,
        headers=dict(reply.headers),
        media_type=PROBLEM if reply.status >= 400 else "application/json",
    )
