"""How often, how fast and how long each class of failure is tried again. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

from handrail.errors import ConfigError
from handrail.recovery.classes import ErrorClass

SECOND = 1_000
MINUTE = 60 * SECOND
DAY = 24 * 60 * MINUTE
LONGEST_RETRY_AFTER = DAY


@dataclass(frozen=True, slots=True)
class Backoff:
    """`first_ms` doubles with each attempt up to `cap_ms`.

    `times` retries are made at most; None: as often as it takes. `max_age_ms` is counted from the first failure; None:
    for ever. `discard`: what is used up is dropped with a reason instead of becoming a dead letter.
    """

    first_ms: int
    cap_ms: int
    times: int | None
    max_age_ms: int | None
    discard: bool = False

    def delay(self, attempt: int) -> int:
        """Milliseconds to wait after the attempt-th failure (1 is the first), before jitter."""
        return min(self.cap_ms, self.first_ms << min(max(attempt, 1) - 1, 40))


NEVER = Backoff(first_ms=0, cap_ms=0, times=0, max_age_ms=None)

DEFAULTS: Mapping[ErrorClass, Backoff] = MappingProxyType(
    {
        ErrorClass.TRANSIENT: Backoff(2 * SECOND, 10 * MINUTE, times=8, max_age_ms=DAY),
        ErrorClass.RATE_LIMITED: Backoff(1 * SECOND, 10 * MINUTE, times=None, max_age_ms=DAY),
        ErrorClass.OUTAGE: Backoff(2 * SECOND, 1 * MINUTE, times=None, max_age_ms=None),
        ErrorClass.BUG: Backoff(2 * SECOND, 10 * MINUTE, times=2, max_age_ms=DAY),
        ErrorClass.INFRA: Backoff(100, 10 * SECOND, times=None, max_age_ms=None),
    }
)
# The words of a flow file (with or without their unit) and the fields that they set.
_WORDS = {
    "from": "first_ms",
    "from_ms": "first_ms",
    "to": "cap_ms",
    "to_ms": "cap_ms",
    "within": "max_age_ms",
    "within_ms": "max_age_ms",
    "times": "times",
    "then": "then",
    **{name: name for name in ("first_ms", "cap_ms", "max_age_ms")},
}
_DISCARDABLE = frozenset({ErrorClass.TRANSIENT, ErrorClass.RATE_LIMITED, ErrorClass.BUSINESS})


@dataclass(frozen=True, slots=True)
class Policy:
    """A Backoff for each class; a class that has none is never tried again."""

    backoffs: Mapping[ErrorClass, Backoff] = field(default_factory=lambda: DEFAULTS)

    def backoff(self, error_class: ErrorClass) -> Backoff:
        return self.backoffs.get(error_class, NEVER)

    @classmethod
    def from_config(cls, config: Mapping[str, Mapping[str, Any] | None] | None) -> Policy:
        """A flow's `retry:` over the defaults: `{transient: {from: 2000, to: 600000, times: 8, within: 86400000}}`.

        Times are ms. `then: discard` drops what is used up with a reason (transient, rate_limited, business). Keys
        whose value is None count as absent. Raises ConfigError that names the key.
        """
        backoffs = dict(DEFAULTS)
        for name, given in (config or {}).items():
            if given is None:
                continue
            error_class = _class(name)
            backoffs[error_class] = _backoff(error_class, given)
        return cls(MappingProxyType(backoffs))


def _class(name: str) -> ErrorClass:
    allowed = [one.value for one in ErrorClass if one.retryable or one in _DISCARDABLE]
    if name not in allowed:
        raise ConfigError(f"retry: {name!r} can't be tried again; a flow may set {', '.join(allowed)}")
    return ErrorClass(name)


def _backoff(error_class: ErrorClass, given: Mapping[str, Any]) -> Backoff:
    place = f"retry.{error_class.value}"
    if not isinstance(given, Mapping):
        raise ConfigError(f"{place}: write a mapping such as {{from: 2s, to: 10m, times: 8}}, not {given!r}")
    set_: dict[str, Any] = {}
    for word, value in given.items():
        if word not in _WORDS:
            raise ConfigError(f"{place}: no such key {word!r}; there are from, to, times, within, then")
        if value is not None:
            set_[_WORDS[word]] = value
    discard = _discard(error_class, set_.pop("then", "dead-letter"))
    numbers = {name: _number(f"{place}.{name}", value) for name, value in set_.items()}
    if numbers and not error_class.retryable:
        raise ConfigError(f"{place}: it is never tried again, so only `then: discard` can be set")
    if "times" in numbers and not error_class.counted:
        raise ConfigError(f"{place}.times: its attempts are not counted; limit it by `within`")
    base = DEFAULTS.get(error_class, NEVER)
    made = replace(
        base, discard=discard, **{one.name: numbers[one.name] for one in fields(base) if one.name in numbers}
    )
    if "cap_ms" not in numbers:
        made = replace(made, cap_ms=max(made.cap_ms, made.first_ms))
    if "first_ms" not in numbers:
        made = replace(made, first_ms=min(made.first_ms, made.cap_ms))
    if made.cap_ms < made.first_ms:
        raise ConfigError(f"{place}: `to` ({made.cap_ms} ms) is less than `from` ({made.first_ms} ms)")
    return made


def _discard(error_class: ErrorClass, then: object) -> bool:
    if then not in ("discard", "dead-letter"):
        raise ConfigError(f"retry.{error_class.value}.then: write discard or dead-letter, not {then!r}")
    if then == "discard" and error_class not in _DISCARDABLE:
        raise ConfigError(f"retry.{error_class.value}.then: a person must see it, so it can't be discarded")
    return then == "discard"


def _number(place: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{place}: {value!r} is not a whole number of 0 or more")
    return value
