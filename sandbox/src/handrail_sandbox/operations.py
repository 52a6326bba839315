"""What an operation of an outside system is: a value that the desk takes calls for."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from handrail_sandbox.replies import Reply, problem


@dataclass(frozen=True, slots=True)
class Asked:
    """What one call asks: the parameters of its path, and its body (or query, for a GET) as the operation's model."""

    path: Mapping[str, str]
    model: Any


@dataclass(frozen=True, slots=True)
class Doing:
    """What an operation works with: the books inside a transaction, the call's number, and the time in ms."""

    books: sqlite3.Connection
    call: int
    now: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a system.

    `asks` is the model of the body, or of the query of a GET. `reference` names the thing that the call is about;
    faults are chosen by it. `act` does it and answers; its effects are logged by the desk. `pretend` answers as if it
    had been done.
    """

    system: str
    name: str
    method: str
    path: str
    asks: type[BaseModel] | None
    reference: Callable[[Asked], str]
    act: Callable[[Asked, Doing], Reply]
    pretend: Callable[[Asked, int], Reply] | None = None

    def parse(self, path: Mapping[str, str], query: Mapping[str, str], body: bytes) -> Asked | Reply:
        """What the call asks, or a 422 that names each wrong field."""
        if self.asks is None:
            return Asked(path, None)
        try:
            model = (
                self.asks.model_validate(dict(query)) if self.method == "GET" else self.asks.model_validate_json(body)
            )
        except ValidationError as error:
            return invalid(error, "query" if self.method == "GET" else "body")
        return Asked(path, model)


def invalid(error: ValidationError, what: str) -> Reply:
    """A 422 with each field that is wrong as a JSON pointer."""
    errors = [
        {"pointer": "/" + "/".join(str(part) for part in one["loc"]), "detail": one["msg"]}
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    told = "; ".join(f"{one['pointer']}: {one['detail']}" for one in errors)
    return problem(422, f"the {what} is not valid: {told}", errors=errors)
