"""The transactional stage: one step turns a batch of inputs into one committed transaction, or into nothing at all.

The order of a step is that of docs/guarantees.md: poll; admit (decode, duplicate?, blocked?); handle; decide about failures;
one transaction (outputs, changelogs, offsets); then, and only then, the local tables. No Kafka in here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from handrail.admission import Arrival, arrive, arrive_delayed, decode, identified, passes
from handrail.changelog import catch_up, changes_of, records_of, topics
from handrail.clock import Clock
from handrail.contracts import Contracts
from handrail.endings import Endings
from handrail.errors import Aborted, HandrailError
from handrail.identity import output_id
from handrail.log import Fault, Log, Outgoing, Record, Transaction, no_fault
from handrail.message import Due, Finished, GiveUp, Message, Output, Relay
from handrail.outbox import Outbox
from handrail.pending import REPLAY_POSITION, Pending, View, replay_position
from handrail.pending import timer_of as read_timer
from handrail.recovery import ErrorClass, classify
from handrail.spec import Idle, Spec, Worker
from handrail.tables import Identity, PartitionTables
from handrail.telemetry import Telemetry
from handrail.waiting import Waiting
from handrail.work import Owned, Work, queue_key, span_of, waiting_rows

IDLE_WAIT_S = 0.5
BUSY_WAIT_S = 0.01
TIMER_RETRY_MS = 5_000
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0


class Stage:
    """One consumer group with one inbox. One thread owns it."""

    def __init__(
        self,
        spec: Spec,
        log: Log,
        contracts: Contracts,
        *,
        folder: Callable[[int], Path],
        identity: Callable[[int], Identity],
        clock: Clock,
        telemetry: Telemetry,
        jitter: Callable[[], float],
        worker: Worker | None = None,
        fault: Fault = no_fault,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.spec = spec
        self.counters: Counter[str] = Counter()
        self.phase, self.phase_since = "new", time.monotonic()
        self._log = log
        self._contracts = contracts
        self._folder = folder
        self._identity = identity
        self._clock = clock
        self._telemetry = telemetry
        self._endings = Endings(spec, jitter)
        self._worker: Worker = worker or Idle()
        self._fault = fault
        self._pause = pause
        self._owned: dict[int, Owned] = {}
        self._finished: list[tuple[int, Finished]] = []
        self._aborts = 0
        self._logger = structlog.get_logger().bind(stage=spec.name)

    def step(self) -> bool:
        """One batch; True when something was committed. Raises Fenced and StateError: the process must end then."""
        self._enter("poll")
        batch = self._log.poll(min(self.spec.batch, self._worker.room()), self._patience())
        try:
            self._follow(batch.revoked, batch.assigned)
            if batch.records:
                self._fault("after-consume")
            work = self._handle(batch.records)
            return self._commit(work, batch.membership)
        except Aborted as error:
            self._rewind(error)
            return False
        finally:
            for owned in self._owned.values():
                owned.end()
            self._enter("idle")

    def ready(self) -> bool:
        """Whether partitions are owned, restored and not held."""
        return bool(self._owned) and not any(owned.held for owned in self._owned.values())

    def waiting(self) -> int:
        """Delayed records of the owned partitions."""
        return sum(len(owned.waiting) for owned in self._owned.values())

    def close(self) -> None:
        """Let go of everything, with nothing half done."""
        self._enter("close")
        self._worker.close()
        self._release(tuple(self._owned))
        self._log.close()

    # --- assignment and restore

    def _follow(self, revoked: tuple[int, ...], assigned: tuple[int, ...]) -> None:
        if revoked:
            self._release(revoked)
        if not assigned:
            return
        for partition in assigned:
            tables = PartitionTables(self._folder(partition), self._identity(partition), window_ms=self.spec.window_ms)
            self._owned[partition] = Owned(partition, tables, Waiting())
        self._restore()

    def _release(self, partitions: tuple[int, ...]) -> None:
        for partition in partitions:
            owned = self._owned.pop(partition, None)
            if owned is not None:
                self._worker.forget(partition)
                self._finished = [each for each in self._finished if each[0] != partition]
                owned.tables.close()

    def _restore(self) -> None:
        """What was committed, then tables to the high watermarks, then go on.

        In this order, because a zombie's transaction may end in between: a position without its marks would let duplicates
        pass, and marks without their position only drop what comes again. Asking waits for pending offsets to be decided.
        """
        self._enter("restore")
        started = time.monotonic()
        committed = self._log.committed(list(self._owned))
        tables = {partition: owned.tables for partition, owned in self._owned.items()}
        count = catch_up(self._log, self.spec.name, tables, lambda: self._fault("during-restore"))
        positions: dict[int, tuple[int, int]] = {}
        for partition, owned in self._owned.items():
            owned.offset, owned.held = committed[partition], None
            owned.waiting = waiting_rows(self.spec, self._contracts, owned.tables)
            owned.tables.begin_batch()
            positions[partition] = (owned.offset, replay_position(owned.tables.get(REPLAY_POSITION)))
            owned.tables.end_batch()
        self._log.resume(positions)
        self._logger.info(
            "restored", partitions=sorted(self._owned), records=count, seconds=round(time.monotonic() - started, 3)
        )

    def _rewind(self, error: Aborted) -> None:
        """After a failed or unknown commit: a new producer fences it, the tables learn what it did, then go on."""
        self.counters["aborted"] += 1
        self._logger.warning("aborted", why=str(error), in_a_row=self._aborts)
        self._enter("rewind")
        if self._aborts:
            self._pause(min(FIRST_PAUSE_S * 2 ** (self._aborts - 1), LONGEST_PAUSE_S))
        self._aborts += 1
        for owned in self._owned.values():
            owned.tables.end_batch()
        self._log.renew()
        self._restore()

    # --- handling

    def _handle(self, records: list[Record]) -> Work:
        self._enter("handle")
        now = self._clock.now()
        work = Work(Outbox(self.spec, self._contracts, now), now)
        for owned in self._owned.values():
            if owned.held is None:
                for row, due_at in owned.waiting.due_timers(now, self.spec.batch):
                    self._take_timer(work, owned, row, due_at)
                for sequence in owned.waiting.due_records(now, self.spec.batch):
                    if not self._take_delayed(work, owned, sequence):
                        break
        self._finished.extend(self._worker.finished())
        for partition, finished in self._finished:
            if partition in self._owned:
                self._take_finished(work, self._owned[partition], finished)
        for record in records:
            owner = self._owned.get(record.partition)
            if owner is not None and owner.held is None:
                self._take(work, record, owner)
        return work

    def _take(self, work: Work, record: Record, owned: Owned) -> None:
        """One record of the inbox or the replay topic."""
        pending = owned.begin()
        arrival = self._identified(arrive(record, inbox=self.spec.inbox, public=self.spec.public))
        if self._must_hold(owned, arrival):
            return
        if record.topic == self.spec.inbox:
            pending.offset = record.offset + 1
        else:
            pending.set_replay_position(record.offset + 1)
        work.counts["consumed"] += 1
        if not passes(arrival, pending):
            work.counts["duplicates"] += 1
        elif self._is_behind(work, arrival, record, owned):
            self._endings.delay(work, owned, arrival, due_at=0, info=None)
            work.counts["queued"] += 1
        else:
            self._attempt(work, owned, arrival)

    def _identified(self, arrival: Arrival) -> Arrival:
        if self.spec.identify is None:
            return arrival
        return identified(arrival, self._contracts, self.spec.accepts, self.spec.identify)

    def _must_hold(self, owned: Owned, arrival: Arrival) -> bool:
        """Whether it needs a flow version that this process does not have: then the partition stops before it."""
        run = arrival.meta.run
        if run is None or self.spec.knows(run.flow, run.version):
            return False
        owned.held = f"{run.flow} v{run.version}"
        self._log.hold(owned.partition)
        self._logger.error("paused", partition=owned.partition, unknown_version=owned.held)
        return True

    def _is_behind(self, work: Work, arrival: Arrival, record: Record, owned: Owned) -> bool:
        """Held back by an earlier record of its key. Replays and orders are not, nor what fails anyhow by its size."""
        return (
            self.spec.ordering == "key"
            and len(owned.waiting) > 0
            and record.topic == self.spec.inbox
            and bool(arrival.record.key)
            and owned.waiting.blocked(queue_key(self.spec, 0, arrival.record.key))
            and work.outbox.can_keep(arrival)
        )

    def _take_delayed(self, work: Work, owned: Owned, sequence: int) -> bool:
        """False when the partition must stop before it."""
        raw = owned.begin().delayed_record(sequence)
        if raw is None:
            raise HandrailError(f"{self.spec.name}[{owned.partition}]: delayed record {sequence} has no row")
        row = self._contracts.decode(raw)[1]
        arrival = self._identified(arrive_delayed(row, inbox=self.spec.inbox, public=self.spec.public))
        if self._must_hold(owned, arrival):
            return False
        self._attempt(work, owned, arrival)
        return True

    def _attempt(self, work: Work, owned: Owned, arrival: Arrival) -> None:
        """Decode and handle; whatever is raised goes to `decide`."""
        message: Message | None = None
        context: str | None = None
        started = time.time_ns()
        try:
            message = decode(arrival, self._contracts, self.spec.accepts)
            context = self._telemetry.child(message.traceparent, message.run.id if message.run else arrival.event)
            if context != message.traceparent:  # what comes of it hangs below this span
                message = replace(message, traceparent=context)
            view = self._view(owned, work)
            gave_up = self._outputs(work, message.id, message, view, context)
        except Exception as error:  # the one place where user code and decoding may fail
            info = classify(error)
            if info.error_class is ErrorClass.CRITICAL:
                raise
            self._endings.failed(work, owned, arrival, message, info)
            if message is not None:
                self._span(work, message, arrival.meta.traceparent, started, info.error_class)
            return
        self._keep(work, owned, view)
        if gave_up is not None:
            self._endings.give_up(work, owned, arrival, message, gave_up)
        else:
            self._endings.done(work, owned, arrival)
        self._span(work, message, arrival.meta.traceparent, started, gave_up.error_class if gave_up else None)

    def _outputs(
        self, work: Work, input_id: str, given: Message | Due | Finished, view: View, context: str | None
    ) -> GiveUp | None:
        """Run the handler; its outputs are encoded and measured before any of them counts."""
        self._enter("handle")
        gave_up: GiveUp | None = None
        encoded: list[Outgoing] = []
        replay = given.replay if isinstance(given, Message) else 0
        seed = f"{input_id}#{replay}" if replay else input_id  # what is done anew must not pass for a duplicate
        for index, output in enumerate(self.spec.handler(given, view)):
            match output:
                case GiveUp():
                    gave_up = output
                case Relay():
                    encoded.append(work.outbox.relay(output))
                case Output():
                    encoded.append(
                        work.outbox.encode(output, input_id, output_id(seed, self.spec.name, index), context)
                    )
        work.outbox.records.extend(encoded)
        return gave_up

    def _take_timer(self, work: Work, owned: Owned, row: bytes, due_at: int) -> None:
        pending = owned.begin()
        value = pending.get(row)
        if value is None:
            return
        name, key, _, payload = read_timer(row, value)
        pending.state[row] = None
        if not self._take_inner(work, owned, Due(name, key, payload, due_at), f"{name}/{key}/{due_at}"):
            self._later(pending, owned, row, value, work.now)

    def _later(self, pending: Pending, owned: Owned, row: bytes, value: bytes, now: int) -> None:
        """A timer whose handler failed comes again; it is never lost."""
        due_at = now + TIMER_RETRY_MS
        pending.state[row] = due_at.to_bytes(8, "big") + value[8:]
        owned.waiting.set_timer(row, due_at)

    def _take_finished(self, work: Work, owned: Owned, finished: Finished) -> None:
        """A failure here loses nothing: the handler's own timer finds the open work again."""
        owned.begin()
        self._take_inner(work, owned, finished, f"finished/{finished.key}/{work.now}")

    def _take_inner(self, work: Work, owned: Owned, given: Due | Finished, input_id: str) -> bool:
        view = self._view(owned, work)
        try:
            self._outputs(work, input_id, given, view, None)
        except Exception as error:
            info = classify(error)
            if info.error_class is ErrorClass.CRITICAL:
                raise
            work.counts["inner_failures"] += 1
            self._logger.error("handler failed", given=type(given).__name__, key=given.key, stack=info.stack)
            return False
        self._keep(work, owned, view)
        return True

    def _keep(self, work: Work, owned: Owned, view: View) -> None:
        view.keep()
        for row, due_at in view.timers.items():
            owned.waiting.set_timer(row, due_at)
        work.jobs.extend((owned.partition, key, job) for key, job in view.work)

    # --- commit

    def _commit(self, work: Work, membership: Any) -> bool:
        """One transaction for the whole batch, then the tables, then the work that waited for the commit."""
        used = {partition: owned.pending for partition, owned in self._owned.items() if owned.pending is not None}
        more = bool(work.outbox.records or work.jobs)  # of rows that have not changed: the position fences them, too
        touched = {partition: pending for partition, pending in used.items() if more or pending.touched()}
        if not touched:
            self._finished.clear()
            return False
        offsets = {
            partition: self._owned[partition].offset if pending.offset is None else pending.offset
            for partition, pending in touched.items()
        }
        changes = [
            record
            for partition, pending in touched.items()
            for record in records_of(self.spec.name, partition, pending)
        ]
        self._enter("commit")
        written = self._log.commit(Transaction(work.outbox.records, changes, offsets, membership))
        self._aborts = 0
        self._fault("after-commit")
        self._enter("apply")
        for partition, pending in touched.items():
            owned = self._owned[partition]
            owned.tables.apply(changes_of(self.spec.name, partition, pending, written))
            owned.offset = offsets[partition]
        self._fault("after-apply")
        self._finished.clear()
        for partition, key, job in work.jobs:
            self._worker.start(partition, key, job)
        for span in work.spans:
            self._telemetry.record(**span)
        self.counters.update(work.counts)
        self.counters["commits"] += 1
        return True

    # --- small things

    def _view(self, owned: Owned, work: Work) -> View:
        encode, decode = self._contracts.encode, self._contracts.decode
        return View(owned.begin(), self.spec.tables, encode, lambda raw: decode(raw)[1], work.now)

    def _patience(self) -> float:
        """How long a poll may wait: until something is due, briefly while work is under way, else long."""
        wait = BUSY_WAIT_S if self._worker.busy() or self._finished else IDLE_WAIT_S
        active = [owned for owned in self._owned.values() if owned.held is None]
        dues = [due for owned in active if (due := owned.waiting.next_due()) is not None]
        if dues:
            wait = min(wait, max(0.0, (min(dues) - self._clock.now()) / 1000))
        return wait

    def _span(self, work: Work, message: Message, parent: str | None, started: int, error: str | None) -> None:
        if self._telemetry.on:
            work.spans.append(span_of(self.spec.name, message, parent, started, error))

    def _enter(self, phase: str) -> None:
        self.phase, self.phase_since = phase, time.monotonic()


def private_topics(stage: str) -> tuple[str, ...]:
    """Every topic that belongs to one stage alone."""
    return (*topics(stage), f"{stage}.replay")
