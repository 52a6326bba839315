"""What a record is before it is handled: where it came from, whether it may pass, and what is in it. No writing here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from handrail import envelope
from handrail.contracts import Contracts
from handrail.envelope import Meta, Replay
from handrail.errors import ContractBroken, Failure, Poison
from handrail.identity import coordinates, mark
from handrail.log import Record
from handrail.message import Headers, Message
from handrail.pending import Pending, generation_of
from handrail.recovery.letter import headers_of

DELAYED = "handrail/delayed.v1"


@dataclass(slots=True)
class Arrival:
    """One record at the stage's door. `record` is the original, at its original coordinates.

    `event` is its id, or its coordinates where the world sent it; `sequence`, `attempt` and `first_failed_at` are those of
    a delayed record. `broken` says that its headers can't be believed; `message` is there once it was decoded.
    """

    record: Record
    event: str
    digest: bytes
    meta: Meta
    replay: Replay | None = None
    sequence: int | None = None
    attempt: int = 0
    first_failed_at: int | None = None
    broken: ContractBroken | None = None
    message: Message | None = None


def arrive(record: Record, *, inbox: str, public: bool) -> Arrival:
    """Read the headers. Retry and replay headers are believed on the stage's private topics only."""
    replay, original = None, record
    try:
        if record.topic != inbox:
            replay = envelope.read_replay(record.headers)
            if replay is not None:
                original = replace(
                    record,
                    topic=replay.topic,
                    partition=replay.partition,
                    offset=replay.offset,
                    headers=envelope.without_replay(record.headers),
                )
        elif any(name in (envelope.REPLAY, envelope.ORDER) for name, _ in record.headers):
            # Forged: it must not be kept for later either.
            original = replace(record, headers=envelope.without_replay(record.headers))
        envelope.check_size(original.headers)
        outside = public and original.topic == inbox
        meta = envelope.read_public(original.headers) if outside else envelope.read_internal(original.headers)
        broken = None
    except ContractBroken as error:
        meta, broken = Meta(), error
    event = meta.id or coordinates(original.topic, original.partition, original.offset)
    return Arrival(original, event, mark(event), meta, replay, broken=broken)


def arrive_delayed(row: Mapping[str, Any], *, inbox: str, public: bool) -> Arrival:
    """A delayed record comes back as what it was, with its attempts."""
    headers = headers_of(row["headers"])
    replay = envelope.read_replay(headers)
    original = Record(
        row["topic"],
        row["partition"],
        row["offset"],
        row["timestamp"],
        row["key"],
        row["value"],
        envelope.without_replay(headers),
    )
    arrival = arrive(original, inbox=inbox, public=public)
    return replace(
        arrival,
        replay=replay,
        sequence=row["sequence"],
        attempt=row["attempt"],
        first_failed_at=row["first_failed_at"],
    )


def passes(arrival: Arrival, pending: Pending) -> bool:
    """Whether it is new: DONE, DELAYED and DEAD marks stop it; a replay passes through DEAD of its own generation only."""
    pin = pending.pin(arrival.digest)
    if arrival.replay is not None:
        return generation_of(pin) == arrival.replay.generation
    return pin is None and not pending.done(arrival.digest)


def delayed_headers(arrival: Arrival) -> Headers:
    """The headers to keep while it waits: the original ones, and that it is a replay."""
    if arrival.replay is None:
        return arrival.record.headers
    return (*arrival.record.headers, *envelope.replay_headers(arrival.replay))


def identified(
    arrival: Arrival, contracts: Contracts, accepts: frozenset[str], identify: Callable[[Message], str]
) -> Arrival:
    """The same with the identity that its body gives; what does not decode keeps its coordinates."""
    try:
        message = decode(arrival, contracts, accepts)
        event = identify(message)
    except Failure:
        return arrival
    named = Message(
        event,
        message.key,
        message.type,
        message.body,
        message.value,
        message.time,
        message.run,
        message.cause,
        message.traceparent,
        message.replay,
    )
    return Arrival(
        arrival.record,
        event,
        mark(event),
        arrival.meta,
        arrival.replay,
        arrival.sequence,
        arrival.attempt,
        arrival.first_failed_at,
        None,
        named,
    )


def decode(arrival: Arrival, contracts: Contracts, accepts: frozenset[str]) -> Message:
    """The message inside. Raises Poison or ContractBroken; the record goes on as a dead letter then."""
    if arrival.message is not None:
        return arrival.message
    if arrival.broken is not None:
        raise arrival.broken
    record, meta = arrival.record, arrival.meta
    if record.value is None:
        raise Poison("the record has no value")
    contract, body = contracts.decode(record.value)
    if contract.name not in accepts:
        raise ContractBroken(f"{contract.name} is not taken here; taken are {', '.join(sorted(accepts))}")
    return Message(
        id=arrival.event,
        key=meta.route if meta.route is not None else _text(record.key),
        type=contract.name,
        body=body,
        value=record.value,
        time=record.timestamp,
        run=meta.run,
        cause=meta.cause,
        traceparent=meta.traceparent,
        replay=arrival.replay.generation if arrival.replay else 0,
    )


def _text(key: bytes | None) -> str:
    try:
        return (key or b"").decode()
    except UnicodeDecodeError:
        return ""
