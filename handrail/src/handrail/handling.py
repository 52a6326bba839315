"""How a stage handles what it was given: records, retries and timers that are due, results of its worker.

Everything ends in the step's `Work` and in the pending rows of the partition; nothing is written here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from handrail.admission import Arrival, arrive, arrive_delayed, decode, identified, passes
from handrail.contracts import Contracts
from handrail.crashes import LIMIT
from handrail.endings import Endings, told
from handrail.errors import HandrailError
from handrail.identity import coordinates, output_id
from handrail.log import Fault, Outgoing, Record
from handrail.logs import InHand, know_in_hand
from handrail.message import Due, Finished, GiveUp, Message, Output, Relay
from handrail.pending import Pending, View
from handrail.pending import timer_of as read_timer
from handrail.recovery import ErrorClass, FailureInfo, classify, frames
from handrail.spec import Spec
from handrail.telemetry import Telemetry
from handrail.traceparent import trace_id
from handrail.work import Lineage, Owned, Work, queue_key, span_of

TIMER_RETRY_MS = 5_000
_DEADLY = f"{LIMIT} times the process ended while this record was in hand; it was put aside without being decoded"


class Handling:
    """The handler of one stage, between its guards.

    `hold` is told a partition that must not be delivered; `progress` is called before each call of the handler. `refused`
    names records whose outputs the broker will never take, with its reason: they are put aside.
    """

    def __init__(
        self,
        spec: Spec,
        contracts: Contracts,
        *,
        telemetry: Telemetry,
        jitter: Callable[[], float],
        fault: Fault,
        hold: Callable[[int], None],
        progress: Callable[[], None],
    ) -> None:
        self.spec = spec
        self._contracts = contracts
        self._telemetry = telemetry
        self._endings = Endings(spec, jitter)
        self._fault = fault
        self._hold = hold
        self._progress = progress
        self.refused: dict[str, str] = {}
        self._logger = structlog.get_logger().bind(stage=spec.name)

    def take(self, work: Work, record: Record, owned: Owned) -> None:
        """One record of the inbox or the replay topic."""
        arrival = arrive(record, inbox=self.spec.inbox, public=self.spec.public)
        with _in_hand(arrival):
            self._take(work, record, arrival, owned)

    def _take(self, work: Work, record: Record, arrival: Arrival, owned: Owned) -> None:
        pending = owned.begin()
        aside = self._pick_up(work, owned, arrival)
        if aside is None:
            arrival = self._identified(arrival)
        if self._must_hold(owned, arrival):
            return
        if record.topic == self.spec.inbox:
            pending.offset = record.offset + 1
        else:
            pending.set_replay_position(record.offset + 1)
        work.counts["consumed"] += 1
        if not passes(arrival, pending):
            work.counts["duplicates"] += 1
            work.duplicates[arrival.meta.run.flow if arrival.meta.run else None] += 1
        elif self._is_behind(work, arrival, record, owned):
            self._endings.delay(work, owned, arrival, due_at=0, info=None)
            work.counts["queued"] += 1
        else:
            self._attempt(work, owned, arrival, aside)

    def _pick_up(self, work: Work, owned: Owned, arrival: Arrival) -> FailureInfo | None:
        """From here on a crash is counted for this record. Says why it must be put aside undecoded, if it must."""
        record, generation = arrival.record, arrival.replay.generation if arrival.replay else 0
        key = f"{coordinates(record.topic, record.partition, record.offset)}#{generation}"
        work.taken.append((owned.partition, key))
        owned.crashes.hold(key)
        if key in self.refused:
            return FailureInfo(ErrorClass.CONTRACT, message=f"Kafka refuses what comes of it: {self.refused[key]}")
        if owned.crashes.condemned(key):
            return FailureInfo(ErrorClass.POISON, message=_DEADLY)
        return None

    def _identified(self, arrival: Arrival) -> Arrival:
        if self.spec.identify is None:
            return arrival
        return identified(arrival, self._contracts, self.spec.accepts, self.spec.identify)

    def _must_hold(self, owned: Owned, arrival: Arrival) -> bool:
        """Whether it needs a flow version that this process does not have: then the partition stops before it."""
        run = arrival.meta.run
        if run is None or self.spec.knows(run.flow, run.version):
            return False
        owned.held, owned.held_since = f"{run.flow} v{run.version}", arrival.record.timestamp
        self._hold(owned.partition)
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

    def take_delayed(self, work: Work, owned: Owned, sequence: int) -> bool:
        """False when the partition must stop before it."""
        raw = owned.begin().delayed_record(sequence)
        if raw is None:
            raise HandrailError(f"{self.spec.name}[{owned.partition}]: delayed record {sequence} has no row")
        row = self._contracts.decode(raw)[1]
        arrival = arrive_delayed(row, inbox=self.spec.inbox, public=self.spec.public)
        if arrival.attempt:
            work.retries.append((work.now - row["due_at"], work.now - (arrival.first_failed_at or work.now)))
        with _in_hand(arrival):
            aside = self._pick_up(work, owned, arrival)
            if aside is None:
                arrival = self._identified(arrival)
            if self._must_hold(owned, arrival):
                return False
            self._attempt(work, owned, arrival, aside)
            return True

    def _attempt(self, work: Work, owned: Owned, arrival: Arrival, aside: FailureInfo | None) -> None:
        """Decode and handle; whatever is raised goes to `decide`."""
        started = time.time_ns()
        message: Message | None = None
        lineage = self._lineage(arrival, arrival.meta.traceparent)
        if aside is not None:
            self._logger.error("put aside", why=aside.message)
            self._endings.failed(work, owned, arrival, None, aside, lineage.context)
            self._span(work, arrival, None, lineage, started, aside.error_class)
            return
        try:
            message = decode(arrival, self._contracts, self.spec.accepts)
            self._fault("after-decode")
            view = self._view(owned, work)
            lineage = self._continued(arrival, message, view, lineage)
            if lineage.context != message.traceparent:  # what comes of it hangs below this span
                message = replace(message, traceparent=lineage.context)
            gave_up = self._outputs(work, message.id, message, view, lineage.context)
        except Exception as error:  # the one place where user code and decoding may fail
            info = classify(error)
            if info.error_class is ErrorClass.CRITICAL:
                raise
            self._endings.failed(work, owned, arrival, message, info, lineage.context)
            self._span(work, arrival, message, lineage, started, info.error_class)
            return
        self._fault("after-handle")
        self._keep(work, owned, view)
        if gave_up is not None:
            self._endings.give_up(work, owned, arrival, message, gave_up, lineage.context)
        else:
            self._endings.done(work, owned, arrival, lineage.context)
        self._span(work, arrival, message, lineage, started, gave_up.error_class if gave_up else None)

    def _lineage(self, arrival: Arrival, parent: str | None, link: str | None = None) -> Lineage:
        """The place in the trace below this parent, which is what is logged from here on.

        Attempts after the first, and replays, follow a failure.
        """
        run, replay = arrival.meta.run, arrival.replay
        context = self._telemetry.child(
            parent,
            run.id if run else arrival.event,
            entry=self.spec.public,
            keep=arrival.first_failed_at is not None or replay is not None,
        )
        know_in_hand(arrival.event, run.id if run else None, context)
        return Lineage(context, parent, link or (replay.order if replay else None))

    def _continued(self, arrival: Arrival, message: Message, view: View, lineage: Lineage) -> Lineage:
        """The run's own trace where the message comes with another one: then that one is only linked."""
        if self.spec.continues is None:
            return lineage
        own = self.spec.continues(message, view)
        if trace_id(own) in (None, trace_id(message.traceparent)):
            return lineage
        return self._lineage(arrival, own, link=lineage.parent)

    def _outputs(
        self, work: Work, input_id: str, given: Message | Due | Finished, view: View, context: str | None
    ) -> GiveUp | None:
        """Run the handler; its outputs are encoded and measured before any of them counts."""
        self._progress()
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

    def take_timer(self, work: Work, owned: Owned, row: bytes, due_at: int) -> None:
        pending = owned.begin()
        value = pending.get(row)
        if value is None:
            return
        name, key, _, payload = read_timer(row, value)
        pending.state[row] = None
        if not self._take_inner(work, owned, Due(name, key, payload, due_at), f"{name}/{key}/{due_at}"):
            self._later(pending, owned, row, value, work.now)
        elif pending.get(row) is None:
            owned.waiting.set_timer(row, None)

    def _later(self, pending: Pending, owned: Owned, row: bytes, value: bytes, now: int) -> None:
        """A timer whose handler failed comes again; it is never lost."""
        due_at = now + TIMER_RETRY_MS
        pending.state[row] = due_at.to_bytes(8, "big") + value[8:]
        owned.waiting.set_timer(row, due_at)

    def take_finished(self, work: Work, owned: Owned, finished: Finished) -> None:
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
            kind = type(given).__name__
            self._logger.error("handler failed", given=kind, key=given.key, frames=frames(error), **told(info))
            return False
        self._keep(work, owned, view)
        return True

    def _keep(self, work: Work, owned: Owned, view: View) -> None:
        view.keep()
        for row, due_at in view.timers.items():
            owned.waiting.set_timer(row, due_at, work.now)
        work.jobs.extend((owned.partition, key, job) for key, job in view.work)
        work.counts.update(view.counts)

    def _view(self, owned: Owned, work: Work) -> View:
        encode, decode = self._contracts.encode, self._contracts.decode
        return View(owned.begin(), self.spec.tables, encode, lambda raw: decode(raw)[1], work.now)

    def _span(
        self, work: Work, arrival: Arrival, message: Message | None, lineage: Lineage, started: int, error: str | None
    ) -> None:
        if self._telemetry.on:
            work.spans.append(span_of(self.spec.name, arrival, message, lineage, started, error))


def _in_hand(arrival: Arrival) -> InHand:
    """What is logged meanwhile says of which message it is."""
    run = arrival.meta.run
    return InHand(arrival.event, run.id if run else None, arrival.meta.traceparent)
