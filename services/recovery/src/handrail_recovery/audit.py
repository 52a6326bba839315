"""Who ordered what, and whether it was done: an entry of the audit goes out with what the order moves. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handrail.message import Output

AUDIT_TOPIC = "audit"
AUDIT_ENTRY = "handrail/audit-entry.v2"
_SAID = ("by", "reason", "at")
_ABOUT = ("letter", "generation", "task", "minutes")


def entry(
    what: str, order: Mapping[str, Any], *, run: str | None, flow: str | None, refused: str | None = None
) -> Output:
    """One entry, keyed by the letter, the task or the flow; `refused` says why nothing was done."""
    body = {name: order[name] for name in _SAID} | {name: order.get(name) for name in _ABOUT}
    key: str = body["letter"] or body["task"] or order["flow"]
    body |= {"what": what, "run": run, "flow": flow, "refused": refused}
    return Output(AUDIT_TOPIC, AUDIT_ENTRY, key, body=body)
