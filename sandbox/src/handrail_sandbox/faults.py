"""Which call gets which fault. Pure: the same rules and the same calls give the same faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

CHANGING = frozenset({"POST", "PUT"})
"""Methods that change something; a rule without a method is for these."""

HANG_BOUND_MS = 60_000


class Kind(StrEnum):
    """What goes wrong. Only `apply-then-lose-reply` and `slow` let the effect happen."""

    ERROR_500 = "500"
    ERROR_503 = "503"
    ERROR_429 = "429"
    HANG = "hang"
    LOSE_REPLY = "apply-then-lose-reply"
    DO_NOTHING = "success-but-nothing"
    SLOW = "slow"


class Rule(BaseModel):
    """One fault on order.

    A call's fate is a hash of (seed, kind, reference, operation, attempt number of that reference and operation), so a
    run can be repeated exactly; a sticky rule leaves operation and attempt out, so that a reference which fails goes on
    failing until the system is mended. Two rules of one kind need different seeds, or they choose the same calls.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    share: float = Field(default=1.0, ge=0.0, le=1.0, description="Part of the calls that it hits, 0 to 1.")
    seed: int = 0
    method: Literal["GET", "POST", "PUT", "any"] | None = Field(
        default=None, description="Calls that it looks at; without it those that change something."
    )
    sticky: Literal[False, "reference"] = False
    retry_after_s: int | None = Field(default=None, ge=0, description="Retry-After of a 429 (default 1) or a 503.")
    delay_ms: int | None = Field(
        default=None, ge=0, le=3_600_000, description="How long slow waits (default 1,000) or a hang lasts (60,000)."
    )
    times: int | None = Field(default=None, ge=1, description="Budget: hits so many calls and no more.")

    @model_validator(mode="after")
    def _nothing_cannot_be_left_undone(self) -> Rule:
        if self.kind is Kind.DO_NOTHING and self.method in ("GET", "any"):
            raise ValueError(
                f"success-but-nothing is for calls that change something: leave out method {self.method!r}"
            )
        return self

    def looks_at(self, method: str) -> bool:
        """Whether a call by this HTTP method can be hit at all."""
        if self.method is None:
            return method in CHANGING
        return self.method in (method, "any")

    def wait_ms(self) -> int:
        """How long the call is held, in ms."""
        if self.delay_ms is not None:
            return self.delay_ms
        return HANG_BOUND_MS if self.kind is Kind.HANG else 1_000


RULES: TypeAdapter[list[Rule]] = TypeAdapter(list[Rule])
"""Reads a list of rules, as `PUT /_faults/<system>` takes it."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """A rule as it stands in the books: with its number and how often it was applied."""

    id: int
    rule: Rule
    spent: int

    def exhausted(self) -> bool:
        """Whether its budget is used up."""
        return self.rule.times is not None and self.spent >= self.rule.times


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a fault is chosen by. `number` counts the calls of this operation for this reference, from 1."""

    method: str
    operation: str
    reference: str
    number: int


def choose(ordered: Sequence[Ordered], attempt: Attempt) -> Ordered | None:
    """The first rule that hits this call, or None."""
    for candidate in ordered:
        rule = candidate.rule
        if rule.looks_at(attempt.method) and not candidate.exhausted() and draw(rule, attempt) < rule.share:
            return candidate
    return None


def draw(rule: Rule, attempt: Attempt) -> float:
    """The call's lot for this rule, evenly spread over [0, 1)."""
    parts = [str(rule.seed), rule.kind.value, attempt.reference]
    if not rule.sticky:
        parts += [attempt.operation, str(attempt.number)]
    digest = blake2b("\x1f".join(parts).encode(), digest_size=8, person=b"sandbox.fault").digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
