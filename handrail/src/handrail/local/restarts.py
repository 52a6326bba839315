"""What to do when a supervised process has ended: a pure decision."""

from __future__ import annotations

import signal
from dataclasses import dataclass

FIRST_S = 0.2
CAP_S = 5.0
FORGIVEN_AFTER_S = 10.0
CONFIG_ERROR = 2
CONFIG_ERROR_S = 30.0


@dataclass(frozen=True, slots=True)
class Again:
    """Start it again after `after_s`; it has now crashed `in_a_row` times; `reason` is for people."""

    after_s: float
    in_a_row: int
    reason: str
    config_error: bool = False


def after_end(exit_code: int, lived_s: float, in_a_row: int) -> Again:
    """When to start again what ended on its own after `lived_s` seconds, `in_a_row` crashes after each other before.

    Exit code 2 is a setting or a file that a person has to mend: it is tried again, but slowly.
    """
    if exit_code == CONFIG_ERROR:
        return Again(CONFIG_ERROR_S, in_a_row, "a setting or a file is wrong (exit code 2)", config_error=True)
    crashes = 1 if lived_s >= FORGIVEN_AFTER_S else in_a_row + 1
    return Again(min(FIRST_S * 2 ** min(crashes - 1, 16), CAP_S), crashes, describe(exit_code))


def describe(exit_code: int) -> str:
    """An exit code in words; negative ones are signals, as `subprocess` has it."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
