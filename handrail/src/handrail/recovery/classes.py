"""The classes of failure and what each one means (design: recovery.md, "Error classes")."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ErrorClass(StrEnum):
    """What kind of failure it is; it alone says whether a machine or a person goes on."""

    TRANSIENT = "transient"
    RATE_LIMITED = "rate_limited"
    OUTAGE = "outage"
    UNKNOWN_OUTCOME = "unknown_outcome"
    BUSINESS = "business"
    CONTRACT = "contract"
    POISON = "poison"
    CONFIG = "config"
    BUG = "bug"
    INFRA = "infra"
    CRITICAL = "critical"

    @property
    def retryable(self) -> bool:
        """A machine may do the same work again, unasked.

        `unknown_outcome` is not: it must be verified first, and what verification finds has a class of its own.
        """
        return self in _RETRYABLE

    @property
    def counted(self) -> bool:
        """An attempt that failed so uses up the budget of attempts."""
        return self not in _UNCOUNTED

    @property
    def meaning(self) -> str:
        """One line for a person."""
        return _MEANING[self]


_RETRYABLE = frozenset(
    {ErrorClass.TRANSIENT, ErrorClass.RATE_LIMITED, ErrorClass.OUTAGE, ErrorClass.BUG, ErrorClass.INFRA}
)
_UNCOUNTED = frozenset({ErrorClass.RATE_LIMITED, ErrorClass.OUTAGE, ErrorClass.INFRA})
_MEANING = {
    ErrorClass.TRANSIENT: "it did not happen and may well work when tried again",
    ErrorClass.RATE_LIMITED: "the system asks us to wait",
    ErrorClass.OUTAGE: "the system is down: its work pauses, nothing is dropped",
    ErrorClass.UNKNOWN_OUTCOME: "nobody can say whether it happened: verify first, never repeat it blindly",
    ErrorClass.BUSINESS: "a rule says no; trying again would not change the answer",
    ErrorClass.CONTRACT: "the data breaks its contract",
    ErrorClass.POISON: "the bytes do not decode",
    ErrorClass.CONFIG: "a secret, an address or a file of ours is wrong",
    ErrorClass.BUG: "an error that nobody has mapped to a class",
    ErrorClass.INFRA: "Kafka or a restart came in between; it runs again by itself",
    ErrorClass.CRITICAL: "out of memory or disk full: the process stops and nothing moves",
}


@dataclass(frozen=True, slots=True)
class FailureInfo:
    """One failure as it is stored and shown.

    `exception_type` is the qualified name. `message` is at most 2 KiB, `stack` at most 16 KiB of UTF-8. `field` is the
    field that breaks a contract. `retry_after_ms` is what the other side asked for. `frame` is the innermost function
    of our own code, `module:function`, without a line number so that it survives edits.
    """

    error_class: ErrorClass
    exception_type: str | None = None
    message: str = ""
    stack: str | None = None
    field: str | None = None
    retry_after_ms: int | None = None
    frame: str | None = None
