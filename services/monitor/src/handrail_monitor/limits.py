"""When a rule says something, unless a flow says otherwise: from the environment, each with a default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from handrail.errors import ConfigError
from handrail.flow.duration import parse_duration

PREFIX = "HANDRAIL_MONITOR_"


@dataclass(frozen=True, slots=True)
class Limits:
    """Shares from 0 to 1, counts, and lengths of time in ms (written `5m` in the environment).

    Each is the variable HANDRAIL_MONITOR_<NAME>, without `_ms`.
    """

    window_ms: int = 300_000
    """Over how long rates are taken."""
    failed_rate: float = 0.05
    """Share of a flow's runs that failed."""
    calls_failed_rate: float = 0.25
    """Share of the calls of a system that failed."""
    least: int = 10
    """So many must have ended before a share means something."""
    in_a_row: int = 5
    """So many failures without a success between them."""
    oldest_letter_ms: int = 3_600_000
    """How old a dead letter may get."""
    silence_ms: int = 0
    """A flow without `expect` that takes no event for so long is silent; 0: it may be."""
    stuck_ms: int = 900_000
    """How long a run may wait for an outcome or its next attempt."""
    stalled_ms: int = 30_000
    """How long a stage may take nothing while there is something to take."""
    behind_ms: int = 60_000
    """How old the events may be that a stage takes."""
    blocked_ms: int = 300_000
    """How long keys may be held back behind a failure."""
    silent_ms: int = 15_000
    """How long a process may say nothing."""
    restarts: int = 3
    """So many starts of one stage within the window."""
    clear_ms: int = 5_000
    """How long a condition must be gone before the alert is over."""
    remind_ms: int = 14_400_000
    """When a firing alert is told again."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Limits:
        """Raises ConfigError for what can't be read."""
        given: dict[str, int | float] = {}
        for one in fields(cls):
            name = PREFIX + one.name.removesuffix("_ms").upper()
            text = env.get(name, "").strip()
            if text:
                given[one.name] = _value(name, one.name, text, isinstance(one.default, float))
        return cls(**given)  # type: ignore[arg-type]


def _value(name: str, field: str, text: str, share: bool) -> int | float:
    try:
        if field.endswith("_ms"):
            return 0 if text == "0" else parse_duration(text)
        number = float(text) if share else int(text)
    except ValueError as error:
        raise ConfigError(f"{name}={text!r}: {error}") from None
    least = 1 if field in ("least", "in_a_row") else 0
    if not number >= least or (share and not number <= 1):
        raise ConfigError(f"{name}={text!r}: write {'a share from 0 to 1' if share else f'a number from {least}'}")
    return number
