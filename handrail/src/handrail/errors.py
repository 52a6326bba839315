"""Everything that Handrail raises on purpose.

HandrailError
├── ConfigError            a file, a setting or an argument is wrong: the person who runs us mends it
│   ├── ContractFileError  a contract, a sample or contracts.lock
│   ├── FlowError          a flow, a rule, a system or a mapping
│   └── StateError         the state folder or its tables can't be used
├── Unreachable            Kafka (or another part) does not answer
├── Failure                one message failed, with its class (handrail.recovery.classes)
│   ├── Poison             its bytes do not decode
│   └── ContractBroken     a field is missing or not valid, or the schema is unknown
└── LogError               the log refused a batch
    ├── Aborted            nothing was committed, or nobody knows: restore, rewind, go on
    │   ├── Refused        Kafka will never take one of the records: trying again as it is can't help
    │   ├── Moved          the group has moved on
    │   └── Unrestored     the tables could not be brought up to date in time
    └── Fenced             another process has our name: this one must end
"""

from __future__ import annotations

from dataclasses import dataclass


class HandrailError(Exception):
    """The root of all errors that Handrail raises on purpose."""


class ConfigError(HandrailError):
    """A file, a setting or an argument is wrong. The message says what, where, and what to write instead."""


class ContractFileError(ConfigError):
    """A contract, a sample or the lock file is wrong."""


class FlowError(ConfigError):
    """A flow, a rule table, a system or a mapping is wrong.

    `problems` holds every problem found, each with its place.
    """

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file: where, what, and what to write instead."""

    file: str
    line: int | None
    what: str
    instead: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.what}" + (f" ({self.instead})" if self.instead else "")


class StateError(ConfigError):
    """The state folder is read-only, full, of another process, or its partition count has changed."""


class Unreachable(HandrailError):
    """Kafka, or another part that is needed, does not answer."""


class Failure(HandrailError):
    """One message failed. `error_class` is one of handrail.recovery.classes.ErrorClass."""

    def __init__(
        self, error_class: str, message: str, *, field: str | None = None, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.field = field
        self.retry_after_ms = retry_after_ms


class Poison(Failure):
    """The bytes do not decode. Never retried."""

    def __init__(self, message: str) -> None:
        super().__init__("poison", message)


class ContractBroken(Failure):
    """A field is missing or not valid, or the schema is unknown. Never retried."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__("contract", message, field=field)


class LogError(HandrailError):
    """The log refused a batch."""


class Aborted(LogError):
    """Nothing of the batch was committed, or nobody knows. Restore the tables, rewind, go on.

    `reason` is for the count of aborts: `broker`, `membership`, `restore` or `refused`.
    """

    reason = "broker"


class Refused(Aborted):
    """Kafka will never take one of the batch's records (too large for its topic, no key where one must be)."""

    reason = "refused"


class Moved(Aborted):
    """The group has moved on: what was polled is somebody else's by now."""

    reason = "membership"


class Unrestored(Aborted):
    """The tables could not be brought up to date in time."""

    reason = "restore"


class Fenced(LogError):
    """Another process took over our transactional id or our group member. This process must end."""
