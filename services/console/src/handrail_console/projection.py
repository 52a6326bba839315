"""From records of the shared topics to rows of the ledger. Pure: a record gives changes, nothing is executed.

Within a partition records come in order, and the ledger skips those it has had. Beyond that, a transition counts once
by (run, sequence), and an older generation of a letter never overwrites a newer one (`handrail_console.writing`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from handrail.contracts import Contracts
from handrail.contracts.model import NAME
from handrail.errors import ContractBroken, Failure

Row = dict[str, Any]
MONITOR = "monitor"


class Record(NamedTuple):
    """One record of a topic; `timestamp` in ms since the epoch. A `value` of None is a tombstone."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class Change(NamedTuple):
    """A row for a table, or (`forget`) the primary key of one that is to go."""

    table: str
    row: Row
    forget: bool = False


Changes = Callable[[Row, Record], list[Change]]


@dataclass(frozen=True, slots=True)
class Projection:
    """How one topic becomes rows: for each contract in it, how. `forgets` is the table and the key of a tombstone."""

    contracts: Mapping[str, Changes]
    forgets: tuple[str, str] | None = None
    passes: frozenset[str] = field(default_factory=frozenset)
    """Contracts of the topic that are not for the ledger."""


def project(contracts: Contracts, record: Record) -> list[Change]:
    """The changes of one record. What can't be read becomes a row of `unreadable`, never an error."""
    projection = PROJECTIONS[record.topic]
    if record.value is None:
        if projection.forgets is None or record.key is None:
            return [_unreadable(record, "it has no value")]
        table, key = projection.forgets
        return [Change(table, {key: record.key.decode(errors="replace")}, forget=True)]
    try:
        contract, value = contracts.decode(record.value)
        changes = projection.contracts.get(contract.name)
        if changes is None:
            if contract.name in projection.passes:
                return []
            raise ContractBroken(f"{contract.name} came where {' or '.join(projection.contracts)} is expected")
    except Failure as error:
        return [_unreadable(record, str(error))]
    return changes(value, record)


def _unreadable(record: Record, why: str) -> Change:
    return Change("unreadable", {**record._asdict(), "why": why})


def _transition(value: Row, record: Record) -> list[Change]:
    value["partition"] = record.partition
    value["offset"] = record.offset
    return [Change("transitions", value)]


def _task(value: Row, _: Record) -> list[Change]:
    value["opened_at"] = value["at"]
    return [Change("tasks", value)]


def _letter(value: Row, _: Record) -> list[Change]:
    headers = [[each["name"], readable(each["value"])] for each in value["headers"]]
    failure = {
        **value,
        "flow": value["flow"] or flow_of(value["stage"]),
        "contract": _broken(value),
        "problem": _problem(value["field"], value["message"]),
    }
    value["headers"] = json.dumps(headers, ensure_ascii=False)
    return [Change("dead_letters", value), Change("failures", failure)]


def flow_of(stage: str) -> str | None:
    """The flow that a stage belongs to; None where it serves several."""
    for kind in (".ingest.", ".transform", ".decision"):
        flow, found, rest = stage.partition(kind)
        if found and (not rest) == (kind != ".ingest."):
            return flow
    return None


def _broken(letter: Row) -> str | None:
    """The contract that was broken: the one that the message names, else that of what came in.

    A good event may become a request that is not: the letter then has the event's contract, and the message the request's.
    """
    came: str | None = letter["contract"]
    name, colon, _ = str(letter["message"]).partition(": ")
    return name if colon and letter["failure_class"] == "contract" and NAME.fullmatch(name) else came


def _problem(name: str | None, message: str) -> str | None:
    """What is wrong with a contract's field, by the words of `handrail.contracts` and of `handrail.flow.bound`."""
    if name is None:
        return None
    words = (f"{name} is missing", f"{name} is empty", f"has no {name},")
    return "missing" if any(one in message for one in words) else "invalid"


def readable(raw: bytes | None) -> str | dict[str, str] | None:
    """Bytes as text where they are UTF-8 that can be shown, else as `{"base64": ...}`."""
    if raw is None:
        return None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "\0"
    return text if all(sign.isprintable() for sign in text) else {"base64": base64.b64encode(raw).decode()}


def _letter_state(value: Row, _: Record) -> list[Change]:
    return [Change("letter_states", value)]


def _counts(value: Row, record: Record) -> list[Change]:
    told = {
        "partition": record.partition,
        "offset": record.offset,
        "stage": value["stage"],
        "flow": value["flow"] or flow_of(value["stage"]),
        "at": value["at"],
    }
    rows = [{**told, "name": name, "count": count} for name, count in value["counts"].items()]
    return [Change("stage_counts", row) for row in rows]


def _alert(value: Row, _: Record) -> list[Change]:
    told = {"sent_to": json.dumps(value["to"]), "told": json.dumps(value["told"])}
    return [Change("alerts", {**value, **told})]


def _audit(value: Row, record: Record) -> list[Change]:
    return [Change("audit", {"minutes": None, **value, "partition": record.partition, "offset": record.offset})]


def _system(value: Row, _: Record) -> list[Change]:
    return [Change("systems", value)]


def _heartbeat(value: Row, _: Record) -> list[Change]:
    """Of monitor alone: it watches the others, and nobody else would notice its silence."""
    return [Change("heartbeats", value)] if value["service"] == MONITOR else []


PROJECTIONS: Mapping[str, Projection] = MappingProxyType(
    {
        "runs": Projection({f"handrail/run-transition.v{version}": _transition for version in (1, 2, 3)}),
        "tasks": Projection({"handrail/task.v1": _task}, ("tasks", "task")),
        "dead-letters": Projection({"handrail/dead-letter.v1": _letter}, ("dead_letters", "letter")),
        "recovery.states": Projection({"handrail/letter-state.v1": _letter_state}, ("letter_states", "letter")),
        "alerts": Projection({"handrail/alert.v1": _alert}),
        "audit": Projection({f"handrail/audit-entry.v{version}": _audit for version in (1, 2)}),
        "systems": Projection({"handrail/system-state.v1": _system}, ("systems", "system")),
        "stats": Projection(
            {"handrail/process-stats.v1": _heartbeat, "handrail/stage-counts.v1": _counts},
            passes=frozenset({"handrail/stats.v1"}),
        ),
    }
)
TOPICS = tuple(PROJECTIONS)
