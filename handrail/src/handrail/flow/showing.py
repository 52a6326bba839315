"""A flow as data for people and programs: as its file says it, or with everything that it leaves to defaults."""

from __future__ import annotations

from typing import Any

from handrail.flow.bound import Flow
from handrail.flow.duration import format_duration
from handrail.flow.failures import promise
from handrail.flow.model import FlowFile, Step
from handrail.recovery import Backoff


def written(flow: Flow) -> dict[str, Any]:
    """What the file says, and nothing more."""
    return flow.definition.model_dump(mode="json", by_alias=True, exclude_unset=True)


def resolved(flow: Flow) -> dict[str, Any]:
    """With every default, and what follows from systems and contracts: nothing is left to guess."""
    full = flow.definition.model_dump(mode="json", by_alias=True)
    full["request"] = flow.request_contract
    full["people"] = {role: who or flow.people.owner for role, who in full["people"].items()}
    full["retry"] = {str(name): _backoff(each) for name, each in flow.policy.backoffs.items()}
    full["on_failure"] = list(flow.definition.on_failure) or ["dead-letter"]
    full["manual"]["group"] = flow.manual.group or flow.people.owner
    full["steps"] = [_step(flow, step, data) for step, data in zip(flow.steps, full["steps"], strict=True)]
    order = [field.alias or name for name, field in FlowFile.model_fields.items()]
    return {key: full[key] for key in order}


def _step(flow: Flow, step: Step, data: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in data.items() if value is not None}
    return kept | {"promise": promise(flow, step)}


def _backoff(backoff: Backoff) -> dict[str, Any]:
    return {
        "from": format_duration(backoff.first_ms),
        "to": format_duration(backoff.cap_ms),
        "times": "as often as it takes" if backoff.times is None else backoff.times,
        "within": "for ever" if backoff.max_age_ms is None else format_duration(backoff.max_age_ms),
        "then": "discard" if backoff.discard else "dead-letter",
    }
