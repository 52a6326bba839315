"""Do commands, their outcomes and the outside system's books say the same? Pure.

The key of a call, `<run>/<step>/r<revision>`, joins all three.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from handrail_chaos.checker_ends import Ends
from handrail_chaos.checker_words import Findings
from handrail_chaos.evidence import NOTICE, OUTCOME, Evidence, Role


def check_effects(evidence: Evidence, ends: Ends, found: Findings) -> None:
    """Torn: an effect or a call without its command; success without effect; failure with one. Twice: one key twice."""
    if evidence.effects is None:
        return
    commands = _commands(evidence)
    made = Counter(effect.key for effect in evidence.effects if effect.key is not None)
    by_reference = Counter(effect.reference for effect in evidence.effects)
    for key, count in made.items():
        name = _name(ends, key)
        if count > 1:
            found.twice(name, f"{count} effects by the one key {key}")
        if key not in commands:
            found.torn(name, f"there is an effect by the key {key}, and no command of it")
    for key in {call.key for call in evidence.calls if call.key is not None} - commands - set(made):
        found.torn(_name(ends, key), f"there was a call with the key {key}, and there is no command of it")
    for topic in _action_topics(evidence):
        for record in evidence.topic(topic).records:
            body = record.body
            if record.contract != OUTCOME or body is None:
                continue
            key = f"{body['run']}/{body['step']}/r{body['revision']}"
            name = _name(ends, key)
            if key not in commands:
                found.torn(name, f"there is an outcome of {key}, and no command of it")
            if body["status"] in ("verified", "accepted") and not by_reference[ends.name_of_run(body["run"])]:
                found.torn(name, f"the outcome of {key} is {body['status']}, and there is no effect in the books")
            if body["status"] == "failed" and made[key]:
                found.torn(name, f"the outcome of {key} is failed, and there is an effect in the books")


def check_notices(evidence: Evidence, ends: Ends, found: Findings) -> None:
    """Of what failed at first and went well in the end, decision heard meanwhile: once, and before the outcome."""
    for topic in _action_topics(evidence):
        notices: dict[str | None, Mapping[str, Any]] = {}
        for record in evidence.topic(topic).records:
            body = record.body
            if body is None or record.contract not in (NOTICE, OUTCOME):
                continue
            name, step = ends.name_of_run(body["run"]), body["step"]
            if record.contract == NOTICE:
                if record.cause in notices:
                    found.twice(name, f"{topic} tells twice that {step} began to fail")
                notices[record.cause] = body
                continue
            first, told = body.get("first_failure_at"), notices.pop(record.cause, {}).get("at")
            if told != first and (told is not None or body["status"] in ("verified", "accepted")):
                found.torn(name, f"its outcome says that {step} failed first at {first}, and before it {told} was told")
        for body in notices.values():
            found.torn(ends.name_of_run(body["run"]), f"{topic} tells of a first failure that no outcome follows")


def _action_topics(evidence: Evidence) -> list[str]:
    return sorted({topic for stage in evidence.stages if stage.role is Role.ACTION for topic in stage.each})


def _commands(evidence: Evidence) -> set[str]:
    return {
        f"{body['run']}/{body['step']}/r{body['revision']}"
        for stage in evidence.stages
        if stage.role is Role.ACTION
        for record in evidence.topic(stage.inbox).records
        if (body := record.body) is not None
    }


def _name(ends: Ends, key: str) -> str:
    return ends.name_of_run(key.partition("/")[0])
