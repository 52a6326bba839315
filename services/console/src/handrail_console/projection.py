"""From records of the shared topics to rows of the ledger. Pure: a record gives statements, nothing is executed.

Within a partition records come in order, and the ledger skips those it has had. Beyond that, a transition counts once
by (run, sequence), and an older generation of a letter never overwrites a newer one.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from handrail.contracts import Contracts
from handrail.errors import Failure


class Record(NamedTuple):
    """One record of a topic; `timestamp` in ms since the epoch. A `value` of None is a tombstone."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class Change(NamedTuple):
    """One SQL statement and its named parameters."""

    sql: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Projection:
    """How one topic becomes rows. `forget` is the statement of a tombstone, by `:key`."""

    contract: str
    changes: Callable[[dict[str, Any], Record], list[Change]]
    forget: str | None = None


def project(contracts: Contracts, record: Record) -> list[Change]:
    """The changes of one record. What can't be read becomes a row of `unreadable`, never an error."""
    projection = PROJECTIONS[record.topic]
    if record.value is None:
        if projection.forget is None or record.key is None:
            return [_unreadable(record, "it has no value")]
        return [Change(projection.forget, {"key": record.key.decode(errors="replace")})]
    try:
        _, value = contracts.decode(record.value, projection.contract)
    except Failure as error:
        return [_unreadable(record, str(error))]
    return projection.changes(value, record)


def _unreadable(record: Record, why: str) -> Change:
    return Change(
        'INSERT OR IGNORE INTO unreadable (topic, "partition", "offset", timestamp, key, value, why)'
        " VALUES (:topic, :partition, :offset, :timestamp, :key, :value, :why)",
        {**record._asdict(), "why": why},
    )


def _transition(value: dict[str, Any], record: Record) -> list[Change]:
    row = {
        **value,
        "dedupe": json.dumps(value["dedupe"], sort_keys=True, ensure_ascii=False),
        "partition": record.partition,
        "offset": record.offset,
    }
    return [Change(sql, row) for sql in (_INSERT_TRANSITION, _INSERT_RUN, _ADVANCE_RUN)]


# The same sequence at another offset should never be: it is counted, so that a broken build can be seen.
_INSERT_TRANSITION = """
INSERT INTO transitions (run, sequence, previous, state, event, step, failure_class, reason, attempts, actor, task,
  first_failure_at, at, "partition", "offset")
VALUES (:run, :sequence, :previous, :state, :event, :step, :failure_class, :reason, :attempts, :actor, :task,
  :first_failure_at, :at, :partition, :offset)
ON CONFLICT DO UPDATE SET repeats = repeats + 1
  WHERE "offset" <> excluded."offset" OR "partition" <> excluded."partition"
"""
_INSERT_RUN = """
INSERT INTO runs (run, flow, version, route, dedupe, trace, sequence, state, step, failure_class, reason,
  started_at, updated_at)
VALUES (:run, :flow, :version, :route, :dedupe, :trace, :sequence, :state, :step, :failure_class, :reason, :at, :at)
ON CONFLICT DO UPDATE SET
  started_at = min(started_at, excluded.started_at),
  trace = coalesce(trace, excluded.trace),
  dedupe = CASE WHEN dedupe = '{}' THEN excluded.dedupe ELSE dedupe END
"""
_ADVANCE_RUN = """
UPDATE runs SET sequence = :sequence, state = :state, step = :step, failure_class = :failure_class, reason = :reason,
  updated_at = :at
WHERE run = :run AND sequence < :sequence
"""


def _task(value: dict[str, Any], _: Record) -> list[Change]:
    return [Change(_UPSERT_TASK, value)]


_UPSERT_TASK = """
INSERT INTO tasks (task, run, flow, version, route, step, kind, state, "group", title, context, runbook, due_at,
  decided_by, reason, opened_at, at)
VALUES (:task, :run, :flow, :version, :route, :step, :kind, :state, :group, :title, :context, :runbook, :due_at,
  :decided_by, :reason, :at, :at)
ON CONFLICT DO UPDATE SET state = excluded.state, "group" = excluded."group", title = excluded.title,
  context = excluded.context, runbook = excluded.runbook, due_at = excluded.due_at, decided_by = excluded.decided_by,
  reason = excluded.reason, at = excluded.at
"""


def _letter(value: dict[str, Any], _: Record) -> list[Change]:
    headers = json.dumps([[each["name"], readable(each["value"])] for each in value["headers"]], ensure_ascii=False)
    return [Change(_UPSERT_LETTER, {**value, "headers": headers})]


def readable(raw: bytes | None) -> str | dict[str, str] | None:
    """Bytes as text where they are UTF-8 that can be shown, else as `{"base64": ...}`."""
    if raw is None:
        return None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "\0"
    return text if all(sign.isprintable() for sign in text) else {"base64": base64.b64encode(raw).decode()}


_LETTER = tuple(
    re.findall(
        r"\w+",
        """generation stage flow version run route step topic partition offset timestamp key value headers event_id contract
        failure_class field exception message stack fingerprint attempts trace payload_hash failed_at first_failed_at""",
    )
)
_UPSERT_LETTER = f"""
INSERT INTO dead_letters (letter, {", ".join(f'"{name}"' for name in _LETTER)})
VALUES (:letter, {", ".join(f":{name}" for name in _LETTER)})
ON CONFLICT DO UPDATE SET {", ".join(f'"{name}" = excluded."{name}"' for name in _LETTER)}
  WHERE excluded.generation >= generation
"""


def _letter_state(value: dict[str, Any], _: Record) -> list[Change]:
    return [Change(_UPSERT_STATE, value)]


_UPSERT_STATE = """
INSERT INTO letter_states (letter, generation, state, replays, by, reason, at)
VALUES (:letter, :generation, :state, :replays, :by, :reason, :at)
ON CONFLICT DO UPDATE SET generation = excluded.generation, state = excluded.state, replays = excluded.replays,
  by = excluded.by, reason = excluded.reason, at = excluded.at
  WHERE excluded.generation >= generation
"""

PROJECTIONS: Mapping[str, Projection] = MappingProxyType(
    {
        "runs": Projection("handrail/run-transition.v1", _transition),
        "tasks": Projection("handrail/task.v1", _task, "DELETE FROM tasks WHERE task = :key"),
        "dead-letters": Projection("handrail/dead-letter.v1", _letter, "DELETE FROM dead_letters WHERE letter = :key"),
        "recovery.states": Projection(
            "handrail/letter-state.v1", _letter_state, "DELETE FROM letter_states WHERE letter = :key"
        ),
    }
)
TOPICS = tuple(PROJECTIONS)
