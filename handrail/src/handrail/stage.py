"""The transactional stage: one step turns a batch of inputs into one committed transaction, or into nothing at all.

The order of a step is that of docs/guarantees.md: poll; admit (decode, duplicate?, blocked?); handle; decide about failures;
one transaction (outputs, changelogs, offsets); then, and only then, the local tables. No Kafka in here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from handrail.changelog import catch_up, changes_of, records_of, topics
from handrail.clock import Clock
from handrail.contracts import Contracts
from handrail.crashes import Crashes
from handrail.errors import Aborted, Refused
from handrail.handling import Handling
from handrail.log import Fault, Log, Record, Transaction, no_fault
from handrail.message import Finished
from handrail.metrics import StageMetrics
from handrail.outbox import Outbox
from handrail.pending import REPLAY_POSITION, replay_position
from handrail.recovery import ErrorClass
from handrail.spec import Idle, Spec, Worker
from handrail.tables import Identity, PartitionTables
from handrail.telemetry import Telemetry
from handrail.vitals import STARTING, Vitals
from handrail.waiting import Waiting
from handrail.work import Owned, Work, waiting_rows

IDLE_WAIT_S = 0.5
BUSY_WAIT_S = 0.01
TELL_MS = 1_000
_NOT_JOINED = "is not in its group: it joins, or Kafka does not answer"
BATCH_LIMIT_MS = 20_000  # far below max.poll.interval.ms, however slow the handler is
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
        metrics: StageMetrics | None = None,
    ) -> None:
        self.spec = spec
        failures = {f"failed.{error_class}" for error_class in ErrorClass}
        self.counters: Counter[str] = Counter(dict.fromkeys(failures | spec.may_count, 0))
        self.phase, self.phase_since = "new", time.monotonic()
        self._log = log
        self._contracts = contracts
        self._folder = folder
        self._identity = identity
        self._clock = clock
        self._telemetry = telemetry
        self._worker: Worker = worker or Idle()
        self._fault = fault
        self._pause = pause
        self._owned: dict[int, Owned] = {}
        self._finished: list[tuple[int, Finished]] = []
        self._aborts = 0
        self._narrowed = 0
        self._seeking = False
        self._metrics = metrics
        self._vitals = Vitals(spec.name, troubles=(STARTING,))
        self._told = self._behind = 0
        self._handling = Handling(
            spec,
            contracts,
            telemetry=telemetry,
            jitter=jitter,
            fault=fault,
            hold=log.hold,
            progress=lambda: self._enter("handle"),
        )
        self._logger = structlog.get_logger().bind(stage=spec.name)

    def step(self) -> bool:
        """One batch; True when something was committed. Raises Fenced and StateError: the process must end then."""
        self._enter("poll")
        batch = self._log.poll(min(self._limit(), self._worker.room()), self._patience())
        now = self._clock.now()
        work = Work(Outbox(self.spec, self._contracts, now), now)
        try:
            self._follow(batch.revoked, batch.assigned)
            if batch.records:
                self._fault("after-consume")
            self._handle(work, batch.records)
            committed = self._commit(work, batch.membership)
            if work.cut:
                self._resume()
            self._tell(batch.records)
            return committed
        except Aborted as error:
            self._narrow(error, work)
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

    @property
    def vitals(self) -> Vitals:
        """How it is, at most a second old; any thread may ask."""
        return replace(self._vitals, phase=self.phase)

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
            crashes = Crashes(self._folder(partition).with_name(f"crashes-{partition}"))
            self._owned[partition] = Owned(partition, tables, Waiting(), crashes)
        self._restore()

    def _release(self, partitions: tuple[int, ...]) -> None:
        for partition in partitions:
            owned = self._owned.pop(partition, None)
            if owned is not None:
                self._worker.forget(partition)
                self._finished = [each for each in self._finished if each[0] != partition]
                owned.tables.close()
                owned.crashes.close()

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
        for partition, owned in self._owned.items():
            owned.offset, owned.held = committed[partition], None
            timer_since = partial(owned.waiting.timer_since, self._clock.now())
            owned.waiting = waiting_rows(self.spec, self._contracts, owned.tables, timer_since)
        self._resume()
        self._logger.info(
            "restored", partitions=sorted(self._owned), records=count, seconds=round(time.monotonic() - started, 3)
        )

    def _resume(self) -> None:
        """Go on from the positions that were committed."""
        positions: dict[int, tuple[int, int]] = {}
        for partition, owned in self._owned.items():
            owned.tables.begin_batch()
            positions[partition] = (owned.offset, replay_position(owned.tables.get(REPLAY_POSITION)))
            owned.tables.end_batch()
        self._log.resume(positions)
        for partition, owned in self._owned.items():
            if owned.held is not None:
                self._log.hold(partition)

    def _narrow(self, error: Aborted, work: Work) -> None:
        """Smaller batches get past what can't be committed; what Kafka refuses alone is a dead letter at its next attempt."""
        self._narrowed += 1
        if isinstance(error, Refused):
            self._seeking = True
            if len(work.taken) == 1:
                self._handling.refused[work.taken[0][1]] = str(error)

    def _rewind(self, error: Aborted) -> None:
        """After a failed or unknown commit: a new producer fences it, the tables learn what it did, then go on."""
        trouble: Aborted | None = error
        while trouble is not None:
            self.counters[f"aborted.{trouble.reason}"] += 1
            self._logger.warning("aborted", why=str(trouble), in_a_row=self._aborts)
            self._enter("rewind")
            if self._aborts and not isinstance(trouble, Refused):
                self._pause(min(FIRST_PAUSE_S * 2 ** min(self._aborts - 1, 10), LONGEST_PAUSE_S))
            self._aborts += 1
            for owned in self._owned.values():
                owned.tables.end_batch()
            trouble = self._restored_anew()

    def _restored_anew(self) -> Aborted | None:
        """Nothing, or why the rewind has to be tried again."""
        try:
            self._log.renew()
            self._restore()
        except Aborted as error:
            return error
        return None

    # --- handling

    def _handle(self, work: Work, records: list[Record]) -> None:
        """What is due, then what the worker has finished, then the records, until the time for one batch is used up."""
        self._enter("handle")
        for owned in self._owned.values():
            if owned.held is None:
                self._handle_due(work, owned)
        self._finished.extend(self._worker.finished())
        if self._finished:
            self._fault("after-call")
        for partition, finished in self._finished:
            if partition in self._owned:
                self._handling.take_finished(work, self._owned[partition], finished)
        for record in records:
            owner = self._owned.get(record.partition)
            if owner is not None and owner.held is None:
                if self._late(work):
                    work.cut = True
                    return
                self._handling.take(work, record, owner)
                owner.crashes.free()

    def _handle_due(self, work: Work, owned: Owned) -> None:
        for row, due_at in owned.waiting.due_timers(work.now, self._limit()):
            self._handling.take_timer(work, owned, row, due_at)
            if self._late(work):
                return
        for sequence in owned.waiting.due_records(work.now, self._limit()):
            going_on = self._handling.take_delayed(work, owned, sequence)
            owned.crashes.free()
            if not going_on or self._late(work):
                return

    def _late(self, work: Work) -> bool:
        """Whether the batch has taken so long that it must be committed: the group waits for the next poll."""
        return self._clock.now() - work.now > BATCH_LIMIT_MS

    def _limit(self) -> int:
        """How much one batch may take: after aborts in a row less and less, until what is refused was found."""
        return max(1, self.spec.batch >> self._narrowed)

    # --- commit

    def _commit(self, work: Work, membership: Any) -> bool:
        """One transaction for the whole batch, then the tables, then the work that waited for the commit."""
        if self.spec.counts:
            work.outbox.counted(self.spec.counts, work.duplicates)
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
        began = time.monotonic()
        written = self._log.commit(Transaction(work.outbox.records, changes, offsets, membership))
        took = time.monotonic() - began
        self._aborts = 0
        if not self._seeking:
            self._narrowed = 0
        self._fault("after-commit")
        self._enter("apply")
        for partition, pending in touched.items():
            owned = self._owned[partition]
            owned.tables.apply(changes_of(self.spec.name, partition, pending, written))
            owned.offset = offsets[partition]
        self._fault("after-apply")
        self._forget(work)
        self._finished.clear()
        if work.jobs:
            self._fault("after-intent")
        for partition, key, job in work.jobs:
            self._worker.start(partition, key, job)
        for span in work.spans:
            self._telemetry.record(**span)
        if self._metrics is not None:
            self._metrics.committed(self.spec.name, took)
            for late, age in work.retries:
                self._metrics.retried(self.spec.name, late, age)
        self.counters.update(work.counts)
        self.counters["commits"] += 1
        return True

    def _forget(self, work: Work) -> None:
        """What was suspected of ending the process, or refused by Kafka, and is now behind us."""
        for partition, owned in self._owned.items():
            if owned.crashes.suspects:
                owned.crashes.forget(key for where, key in work.taken if where == partition)
        if self._handling.refused and any(self._handling.refused.pop(key, None) for _, key in work.taken):
            self._seeking, self._narrowed = False, 0

    # --- small things

    def _patience(self) -> float:
        """How long a poll may wait: until something is due, briefly while work is under way, else long."""
        wait = BUSY_WAIT_S if self._worker.busy() or self._finished else IDLE_WAIT_S
        active = [owned for owned in self._owned.values() if owned.held is None]
        dues = [due for owned in active if (due := owned.waiting.next_due()) is not None]
        if dues:
            wait = min(wait, max(0.0, (min(dues) - self._clock.now()) / 1000))
        return wait

    def _tell(self, records: list[Record]) -> None:
        """Once a second, how it is."""
        now = self._clock.now()
        if records:
            self._behind = now - records[0].timestamp
        if abs(now - self._told) < TELL_MS and self._vitals.partitions == tuple(self._owned):
            return
        self._told = now
        held = [owned for owned in self._owned.values() if owned.held is not None]
        lag = self._log.lag({owned.partition: owned.offset for owned in held})
        behind = max(0, self._behind) if any(lag.values()) else 0
        behind = max([behind, *(now - owned.held_since for owned in held)])
        waiting = [owned.waiting for owned in self._owned.values()]
        since = min((oldest for each in waiting if (oldest := each.oldest()) is not None), default=now)
        open_since = min((oldest for each in waiting if (oldest := each.oldest_timer()) is not None), default=now)
        self._vitals = Vitals(
            self.spec.name,
            self.phase,
            tuple(self._owned),
            held={owned.partition: str(owned.held) for owned in held},
            lag=lag,
            waiting=sum(map(len, waiting)),
            blocked=sum(each.blocked_keys() for each in waiting),
            oldest=max(0, now - since),
            open=sum(each.timers() for each in waiting),
            open_oldest=max(0, now - open_since),
            behind=behind,
            headroom=self.spec.window_ms - behind,
            full=self._worker.room() <= 0,
            counters=dict(self.counters),
            troubles=() if self._log.joined() else (_NOT_JOINED,),
        )

    def _enter(self, phase: str) -> None:
        self.phase, self.phase_since = phase, time.monotonic()


def private_topics(stage: str) -> tuple[str, ...]:
    """Every topic that belongs to one stage alone."""
    return (*topics(stage), f"{stage}.replay")
