"""What becomes of an input: done, delayed, a dead letter, or discarded; each with its marks and rows in the batch."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from handrail.admission import Arrival
from handrail.message import GiveUp, Message
from handrail.pending import DELAYED, Pending, dead, generation_of
from handrail.recovery import DeadLetter, Discard, ErrorClass, FailureInfo, Retry, decide
from handrail.spec import Spec
from handrail.work import Owned, Work, queue_key


class Endings:
    """Carries out what `decide` decides. `jitter` gives numbers in [0, 1)."""

    def __init__(self, spec: Spec, jitter: Callable[[], float]) -> None:
        self._spec = spec
        self._jitter = jitter
        self._logger = structlog.get_logger().bind(stage=spec.name)

    def done(self, work: Work, owned: Owned, arrival: Arrival, context: str | None) -> None:
        """`context` is that of the span in which it was handled, here and below."""
        pending = owned.begin()
        pending.marks[arrival.digest] = None
        self._close(pending, owned, arrival)
        if arrival.replay is not None:
            work.outbox.resolved(arrival.replay, self._spec.name, context)
        work.counts["done"] += 1

    def _close(self, pending: Pending, owned: Owned, arrival: Arrival) -> None:
        """It waits no more, and nothing waits behind it."""
        if arrival.replay is not None or arrival.sequence is not None:
            pending.set_pin(arrival.digest, None)
        if arrival.sequence is not None:
            pending.delayed[arrival.sequence] = None
            owned.waiting.remove(arrival.sequence)

    def failed(
        self,
        work: Work,
        owned: Owned,
        arrival: Arrival,
        message: Message | None,
        info: FailureInfo,
        context: str | None,
    ) -> None:
        counted = arrival.attempt + 1
        first = arrival.first_failed_at or work.now
        verdict = decide(self._spec.policy, info, counted, first, work.now, self._jitter())
        work.counts[f"failed.{info.error_class}"] += 1
        match verdict:
            case Retry(due_at=due_at, counted=is_counted) if work.outbox.can_keep(arrival):
                attempt = counted if is_counted else arrival.attempt
                self.delay(work, owned, arrival, due_at=due_at, info=info, attempt=attempt)
                self._logger.info("will be tried again", attempt=attempt + 1, due_at=due_at, **told(info))
            case Retry() | DeadLetter():
                self._letter(work, owned, arrival, message, info, counted, first, step=None, context=context)
            case Discard(reason=reason):
                self._logger.warning("discarded", why=reason)
                pending = owned.begin()
                pending.marks[arrival.digest] = None
                self._close(pending, owned, arrival)
                if arrival.replay is not None:
                    work.outbox.resolved(arrival.replay, self._spec.name, context)
                work.counts["discarded"] += 1

    def give_up(
        self, work: Work, owned: Owned, arrival: Arrival, message: Message, gave_up: GiveUp, context: str | None
    ) -> None:
        known = gave_up.error_class in list(ErrorClass)
        error_class = ErrorClass(gave_up.error_class) if known else ErrorClass.BUG
        info = FailureInfo(error_class, message=gave_up.reason, field=gave_up.field)
        first = gave_up.first_failed_at or work.now
        self._letter(work, owned, arrival, message, info, gave_up.attempts, first, step=gave_up.step, context=context)

    def delay(
        self,
        work: Work,
        owned: Owned,
        arrival: Arrival,
        *,
        due_at: int,
        info: FailureInfo | None,
        attempt: int = 0,
    ) -> None:
        """It waits: for its next attempt, or (due_at 0) behind an earlier record of its key."""
        pending = owned.begin()
        sequence = arrival.sequence if arrival.sequence is not None else owned.waiting.next_sequence()
        pending.delayed[sequence] = work.outbox.delayed(
            arrival, sequence=sequence, due_at=due_at, attempt=attempt, info=info
        )
        pending.set_pin(arrival.digest, DELAYED)
        if arrival.sequence is None:
            since = arrival.first_failed_at or (work.now if info else arrival.record.timestamp)
            owned.waiting.add(sequence, queue_key(self._spec, sequence, arrival.record.key), due_at, since)
        else:
            owned.waiting.again(sequence, due_at)
        work.counts["delayed"] += 1

    def _letter(
        self,
        work: Work,
        owned: Owned,
        arrival: Arrival,
        message: Message | None,
        info: FailureInfo,
        attempts: int,
        first_failed_at: int,
        *,
        step: str | None,
        context: str | None,
    ) -> None:
        pending = owned.begin()
        before = arrival.replay.generation if arrival.replay else generation_of(pending.pin(arrival.digest))
        generation = before + 1
        letter = work.outbox.letter(
            arrival,
            message,
            info,
            generation=generation,
            attempts=attempts,
            first_failed_at=first_failed_at,
            step=step,
            context=context,
        )
        self._logger.warning("dead letter", letter=letter, generation=generation, attempts=attempts, **told(info))
        self._close(pending, owned, arrival)
        pending.set_pin(arrival.digest, dead(generation))
        work.counts["dead_letters"] += 1


def told(info: FailureInfo) -> dict[str, str | None]:
    """What a log may say of a failure: never its message, which may hold personal data."""
    return {"failure_class": str(info.error_class), "error": info.exception_type}
