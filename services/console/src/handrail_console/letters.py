"""Dead letters for people: grouped by what went wrong, decoded where they can be, and what to do about each. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from handrail.contracts import Contracts
from handrail.errors import Failure
from handrail.recovery import ErrorClass

from handrail_console.projection import readable

Row = dict[str, Any]
SHOWN_BYTES = 4096

_MEND = {
    ErrorClass.POISON: "its bytes do not decode: ask whoever writes to {topic} to send it again as it should be",
    ErrorClass.CONTRACT: "correct {field} at its source and publish it again, or mend the contract",
    ErrorClass.BUSINESS: "a rule of the other side said no: settle it there",
    ErrorClass.CONFIG: "mend the secret, the address or the file that is named above",
    ErrorClass.BUG: "mend the code that is named above and start the services again",
    ErrorClass.UNKNOWN_OUTCOME: "look in the outside system whether it has happened: nobody could say",
}
_WAIT = "the other side was away for too long: see that it answers again"


def told(row: Row, contracts: Contracts | None = None) -> Row:
    """A letter as JSON has it: bytes readable, headers parsed and, for a whole one with contracts, the payload decoded."""
    full = {**row, "headers": json.loads(row["headers"]), "key": readable(row["key"])}
    if contracts is not None:
        full["payload"] = payload(full.pop("value"), contracts)
    return full


def payload(value: bytes | None, contracts: Contracts) -> Row:
    """What a letter carried: decoded if it can be, else as text or hex, with the reason."""
    if value is None:
        return {"bytes": 0, "told": "a tombstone", "decoded": None, "shown": ""}
    try:
        contract, decoded = contracts.decode(value)
    except Failure as error:
        raw = value[:SHOWN_BYTES]
        text = readable(raw)
        seen = text if isinstance(text, str) else raw.hex(" ")
        return {"bytes": len(value), "told": f"not decoded: {error}", "decoded": None, "shown": seen}
    seen = json.dumps(decoded, indent=2, ensure_ascii=False, default=lambda raw: readable(bytes(raw)))
    return {"bytes": len(value), "told": contract.name, "decoded": json.loads(seen), "shown": seen}


def incidents(rows: Sequence[Row]) -> list[Row]:
    """Letters with one fingerprint are one incident; the largest first."""
    groups: dict[str, Row] = {}
    for row in rows:
        group = groups.setdefault(
            row["fingerprint"],
            {
                "fingerprint": row["fingerprint"],
                "count": 0,
                "stage": row["stage"],
                "failure_class": row["failure_class"],
                "flows": [],
                "first_seen": row["first_failed_at"],
                "last_seen": row["failed_at"],
                "message": row["message"],
                "letters": [],
            },
        )
        group["count"] += 1
        group["first_seen"] = min(group["first_seen"], row["first_failed_at"])
        group["last_seen"] = max(group["last_seen"], row["failed_at"])
        group["letters"].append(row["letter"])
        if row["flow"] and row["flow"] not in group["flows"]:
            group["flows"].append(row["flow"])
    return sorted(groups.values(), key=lambda group: (-group["count"], group["first_seen"]))


def what_to_do(row: Row) -> list[str]:
    """The next steps for one letter."""
    letter, state = row["letter"], row["state"]
    if state == "REPLAYING":
        return [f"it is being replayed; handrail dlq show {letter} tells when its stage has reported"]
    if state == "MANUAL":
        return ["a person has it: handrail tasks list"]
    if state != "OPEN":
        return [f"nothing: it is {state}"]
    mend = _MEND.get(row["failure_class"], _WAIT).format(
        topic=row["topic"], field=f"the field {row['field']}" if row["field"] else "the data"
    )
    again = (
        "then" if row["failure_class"] != ErrorClass.POISON else "or, when a schema was missing here and has been added"
    )
    return [
        mend,
        f"{again}: handrail dlq replay {letter}",
        f'or, when nothing needs to be done: handrail dlq discard {letter} --reason "…"',
    ]
