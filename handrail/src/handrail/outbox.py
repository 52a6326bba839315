"""What one step sends: outputs, dead letters and reports as records, encoded and measured before anything is produced."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from handrail import envelope
from handrail.admission import DELAYED, Arrival, delayed_headers
from handrail.contracts import Contracts
from handrail.envelope import Replay
from handrail.errors import ContractBroken
from handrail.identity import letter_id, output_id, partition_for
from handrail.log import Outgoing
from handrail.message import Message, Output, Relay
from handrail.recovery import FailureInfo
from handrail.recovery.letter import CONTRACT as DEAD_LETTER
from handrail.recovery.letter import header_rows, letter_body
from handrail.spec import Spec
from handrail.traceparent import kept, trace_id

LETTER_ORDER = "handrail/letter-order.v1"
LETTERS_REPLAY = "recovery.letters.replay"
STAGE_COUNTS = "handrail/stage-counts.v1"


class Outbox:
    """The outputs of one step."""

    def __init__(self, spec: Spec, contracts: Contracts, now: int) -> None:
        self._spec = spec
        self._contracts = contracts
        self._now = now
        self.records: list[Outgoing] = []

    def encode(self, output: Output, cause: str, default_id: str, traceparent: str | None) -> Outgoing:
        """A handler's output as a record; `default_id` is for one that has none of its own.

        Raises ContractBroken when it breaks its contract or is too large.
        """
        value = output.value
        if value is None:
            value = self._contracts.encode(output.type, output.body or {})
        trace = output.traceparent or traceparent
        id_ = output.id or default_id
        if output.public:
            time = datetime.fromtimestamp(self._now / 1000, UTC).isoformat(timespec="milliseconds")
            headers = envelope.write_public(id_, output.type, f"handrail/{self._spec.name}", output.key, time, trace)
        else:
            headers = envelope.write_internal(id_, output.type, trace, output.run, output.cause or cause, output.key)
        record = Outgoing(output.topic, self._partition(output.topic, output.key), output.key.encode(), value, headers)
        if record.size() > self._spec.max_output_bytes:
            raise ContractBroken(
                f"the output for {output.topic} has {record.size()} bytes; at most {self._spec.max_output_bytes} can be sent"
            )
        return record

    def relay(self, relay: Relay) -> Outgoing:
        """Original bytes on their way back."""
        return Outgoing(relay.topic, relay.partition, relay.key, relay.value, relay.headers)

    def letter(
        self,
        arrival: Arrival,
        message: Message | None,
        info: FailureInfo,
        *,
        generation: int,
        attempts: int,
        first_failed_at: int,
        step: str | None,
        context: str | None,
    ) -> str:
        """A dead letter with the raw bytes, below the span in which it failed (`context`); its id.

        It may be larger than any input: the topic takes 128 KiB more.

        What is larger still (a compressed batch hides it from the broker's limit) stays where it is; the letter has its place
        and the hash of its value.
        """
        letter = arrival.replay.letter if arrival.replay else letter_id(self._spec.name, arrival.event)
        body = letter_body(
            letter=letter,
            generation=generation,
            stage=self._spec.name,
            record=arrival.record,
            info=info,
            attempts=attempts,
            failed_at=self._now,
            first_failed_at=first_failed_at,
            message=message,
            event_id=arrival.meta.id,
            step=step,
            trace=trace_id(context),
        )
        if not self.can_keep(arrival):
            size, where = arrival.record.size(), f"{body['topic']}/{body['partition']}/{body['offset']}"
            too_large = (
                f"its {size} bytes are too many for a dead letter: they stay at {where} while that topic keeps them"
            )
            body |= {"key": None, "value": None, "headers": [], "message": f"{info.message}; {too_large}"}
        self._send(
            self._spec.dead_letters,
            DEAD_LETTER,
            letter,
            body,
            id_=output_id(letter, "dead-letter", generation),
            cause=arrival.event,
            run=arrival.meta.run,
            trace=kept(context),
        )
        return letter

    def can_keep(self, arrival: Arrival) -> bool:
        """Whether its bytes fit into a dead letter or a delayed record, with 64 KiB for all else that those say."""
        return arrival.record.size() + 3 * len(arrival.record.headers) + 65_536 <= self._spec.max_kept_bytes

    def resolved(self, replay: Replay, stage: str, context: str | None) -> None:
        """Tell recovery that a replayed letter went through: done only when the stage itself says so."""
        body = {
            "letter": replay.letter,
            "generation": replay.generation,
            "order": "resolved",
            "by": stage,
            "reason": None,
            "at": self._now,
        }
        id_ = output_id(replay.letter, "resolved", replay.generation)
        self._send(
            LETTERS_REPLAY, LETTER_ORDER, replay.letter, body, id_=id_, cause=replay.letter, run=None, trace=context
        )

    def delayed(self, arrival: Arrival, *, sequence: int, due_at: int, attempt: int, info: FailureInfo | None) -> bytes:
        """The row of a record that waits, by handrail/delayed.v1."""
        record = arrival.record
        first = arrival.first_failed_at or (self._now if info else None)
        row: dict[str, Any] = {
            "sequence": sequence,
            "due_at": due_at,
            "attempt": attempt,
            "failure_class": str(info.error_class) if info else None,
            "reason": info.message if info else None,
            "first_failed_at": first,
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": record.timestamp,
            "key": record.key,
            "value": record.value,
            "headers": header_rows(delayed_headers(arrival)),
        }
        return self._contracts.encode(DELAYED, row)

    def counted(self, topic: str, duplicates: Mapping[str | None, int]) -> None:
        """Tell how many duplicates of each flow this transaction drops: so each counts once, whatever happens."""
        for flow, number in duplicates.items():
            body = {"stage": self._spec.name, "flow": flow, "counts": {"duplicates": number}, "at": self._now}
            value, key = self._contracts.encode(STAGE_COUNTS, body), self._spec.name
            self.records.append(Outgoing(topic, self._partition(topic, key), key.encode(), value))

    def _send(
        self,
        topic: str,
        contract: str,
        key: str,
        body: dict[str, Any],
        *,
        id_: str,
        cause: str,
        run: Any,
        trace: str | None,
    ) -> None:
        headers = envelope.write_internal(id_, contract, trace, run, cause, key)
        value = self._contracts.encode(contract, body)
        self.records.append(Outgoing(topic, self._partition(topic, key), key.encode(), value, headers))

    def _partition(self, topic: str, key: str) -> int:
        return partition_for(key, self._spec.partitions(topic))
