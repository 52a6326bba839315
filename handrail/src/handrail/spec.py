"""What a stage is made of: a handler, its tables and policy, and a worker for what happens outside of transactions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from handrail.errors import HandrailError
from handrail.message import Due, Finished, GiveUp, Message, Output, Relay
from handrail.pending import View
from handrail.recovery import Policy

Handler = Callable[[Message | Due | Finished, View], Iterable[Output | Relay | GiveUp]]
"""What a service does. Returning nothing means filtered on purpose; raising means failed."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a stage is. `name` is also its consumer group and the prefix of its private topics.

    `accepts` are the contracts taken from the inbox and the replay topic; `tables` maps the handler's tables to the
    contracts of their rows; `ordering` is "key" or "none"; `knows` says whether this process has a flow's version;
    `partitions` gives a topic's partition count; `public` says that the world writes to the inbox; `identify`
    gives what makes a message the one it is, where that is in its body (else its id or its coordinates). `continues` gives
    the trace context that a message goes on in, where that is kept in a table: a person's decision comes with another one.
    `counts` is the topic that is told, in each transaction, what no other one tells. `may_count` are the counts of its
    handler that are told as 0 from the start: Prometheus takes the first value that it sees of a count for no increase.
    `max_kept_bytes` is what a dead letter or a delayed record may have: below `message.max.bytes` of the producer and of
    their topics.
    """

    name: str
    inbox: str
    accepts: frozenset[str]
    handler: Handler
    partitions: Callable[[str], int]
    knows: Callable[[str, int], bool]
    tables: Mapping[str, str] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    ordering: str = "key"
    public: bool = False
    identify: Callable[[Message], str] | None = None
    continues: Callable[[Message, View], str | None] | None = None
    dead_letters: str = "dead-letters"
    counts: str | None = None
    may_count: frozenset[str] = frozenset()
    batch: int = 1_000
    window_ms: int = 14 * 24 * 3_600_000
    max_output_bytes: int = 1_000_000
    max_kept_bytes: int = 1_280_000


class Worker(Protocol):
    """Does work outside of transactions (calls to other systems) on a thread of its own."""

    def start(self, partition: int, key: str, job: Any) -> None:
        """Begin a job; its result comes back by `finished`."""

    def finished(self) -> Sequence[tuple[int, Finished]]:
        """Results since the last call, with their partitions."""

    def busy(self) -> bool:
        """Whether any job is under way."""

    def room(self) -> int:
        """How many more inputs may be taken that may start a job; 0 pauses the inbox."""

    def forget(self, partition: int) -> None:
        """The partition is no longer ours: drop what is under way for it."""

    def close(self) -> None:
        """Stop."""


class Idle:
    """The worker of a stage that has no outside work."""

    def start(self, partition: int, key: str, job: Any) -> None:
        raise HandrailError(f"this stage has no worker for {key} of partition {partition}: {job!r}")

    def finished(self) -> Sequence[tuple[int, Finished]]:
        return ()

    def busy(self) -> bool:
        return False

    def room(self) -> int:
        return sys.maxsize

    def forget(self, partition: int) -> None:
        """Nothing is under way."""

    def close(self) -> None:
        """Nothing to stop."""
