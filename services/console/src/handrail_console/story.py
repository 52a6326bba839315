"""A run's story in words, and what a person can do next. Pure: rows of the ledger in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from handrail_console.queries import ENDS
from handrail_console.words import clock, count, line, sentence, span

Row = dict[str, Any]
SLOW_MS = 60_000
_ENDINGS = {
    "done": "Done",
    "done-by-hand": "Done by hand",
    "rejected": "Ended as rejected",
    "failed": "Stopped as failed",
    "compensated": "Undone",
    "cancelled": "Cancelled",
}
_VERDICTS = {"done-by-hand": "finished it by hand", "rejected": "said no", "failed": "gave it up"}


@dataclass(frozen=True, slots=True)
class Told:
    """One thing that happened: when (ms since the epoch), and in words."""

    at: int
    text: str


@dataclass(frozen=True, slots=True)
class Story:
    """What happened, in order; how it stands, in one sentence; and what to do next, most urgent first."""

    told: tuple[Told, ...]
    standing: str
    next_steps: tuple[str, ...]


def tell(run: Row, transitions: Sequence[Row], letters: Sequence[Row], tasks: Sequence[Row], now: int) -> Story:
    """`letters` and `tasks` are those of the run; `now` in ms since the epoch."""
    titles = {task["task"]: task for task in tasks}
    told = tuple(Told(one["at"], _sentence(run, one, titles)) for one in transitions)
    return Story(told, _standing(run, transitions, now), _next_steps(run, transitions, letters, tasks, now))


def doubts(run: Row, transitions: Sequence[Row]) -> list[str]:
    """Why the story may not be the whole truth."""
    repeats = sum(one["repeats"] for one in transitions)
    missing = run["sequence"] - len(transitions)
    found = [f"{count(repeats, 'transition')} came more than once: tell whoever builds this"] if repeats else []
    if missing > 0:
        found.append(f"{count(missing, 'transition')} missing: older than what the topic `runs` keeps?")
    return found


def _sentence(run: Row, one: Row, tasks: dict[str, Row]) -> str:
    event, state, step = one["event"], one["state"], one["step"] or "it"
    reason = line(one["reason"], 300) if one["reason"] else ""
    match event:
        case "prepared":
            return f"The {noun(run['dedupe'])} arrived{_dedupe(run['dedupe'])} and was prepared."
        case "decision":
            said = sentence(f"The rules said: {reason}" if state == "decided" else reason or "the rules decided")
            return said + (_waiting(one, tasks) if state == "waiting" else "")
        case "next" if state == "acting":
            return f"Step {step} began."
        case "next" if state == "waiting":
            return f"Step {step} is next." + _waiting(one, tasks)
        case "skipped":
            return sentence(f"step {step} was skipped: {reason}")
        case "failing":
            return sentence(f"step {step} began to fail, and is tried again: {reason}")
        case "outcome":
            return _outcome(one, step, reason, tasks)
        case "replay":
            return sentence(f"its dead letter was replayed, so step {step} began again")
        case "human-decision":
            return _verdict(one, reason)
        case _:
            return sentence(f"{event}: {one['previous'] or 'new'} -> {state}" + (f" ({reason})" if reason else ""))


def noun(dedupe: dict[str, str]) -> str:
    """What came in: `order` where a field `order_id` tells runs apart, else `event`."""
    names = [name.removesuffix("_id") for name in dedupe if name.endswith("_id") and name != "_id"]
    return line(names[0].replace("_", " "), 40) if names else "event"


def _dedupe(dedupe: dict[str, str]) -> str:
    values = ", ".join(f"{name} {line(value, 60)}" for name, value in sorted(dedupe.items()))
    return f" ({values})" if values else ""


def _outcome(one: Row, step: str, reason: str, tasks: dict[str, Row]) -> str:
    since = f", failing first at {clock(one['first_failure_at'])}" if one["first_failure_at"] else ""
    if one["failure_class"] is None:
        again = f", after {count(one['attempts'], 'attempt')}{since}" if one["attempts"] > 1 or since else ""
        return sentence((reason or f"step {step} was done") + again)
    failed = f"step {step} failed ({one['failure_class']}): {reason}"
    made = f" {sentence(count(one['attempts'], 'attempt'))}" if one["attempts"] else ""
    if one["state"] == "manual":
        return sentence(failed) + made + _waiting(one, tasks)
    return sentence(failed) + made + (" It became a dead letter." if one["state"] == "failed" else "")


def _waiting(one: Row, tasks: dict[str, Row]) -> str:
    task = tasks.get(one["task"] or "")
    if task is None:
        return " It waits for a person."
    return f" It waits for {line(task['group'], 60)}: {sentence(line(task['title'], 200))}"


def _verdict(one: Row, reason: str) -> str:
    did = _VERDICTS.get(one["state"], "said yes")
    return sentence(f"{line(one['actor'] or 'somebody', 60)} {did}" + (f": {reason}" if reason else ""))


def _standing(run: Row, transitions: Sequence[Row], now: int) -> str:
    attempts = sum(one["attempts"] for one in transitions if one["event"] == "outcome")
    took = span(run["updated_at"] - run["started_at"])
    if run["state"] in ENDS:
        calls = f"; {count(attempts, 'attempt')}" if attempts else ""
        return f"{_ENDINGS[run['state']]} after {took}{calls}."
    at = f" at step {run['step']}" if run["step"] else ""
    if since := _failing_since(transitions):
        return f"It is {run['state']}{at}, which has failed for {span(now - since)} and is not recovered yet."
    return f"It is {run['state']}{at}, for {span(now - run['updated_at'])} now."


def _failing_since(transitions: Sequence[Row]) -> int | None:
    """Since when what it does now has failed; None when that goes well, as far as anybody knows."""
    last = transitions[-1] if transitions else None
    return last["first_failure_at"] if last is not None and last["event"] == "failing" else None


def _next_steps(
    run: Row, transitions: Sequence[Row], letters: Sequence[Row], tasks: Sequence[Row], now: int
) -> tuple[str, ...]:
    steps: list[str] = []
    for task in tasks:
        if task["state"] == "open":
            steps += task_steps(task)
    for letter in letters:
        if letter["state"] == "OPEN":
            steps.append(f"mend what failed, then: handrail dlq replay {letter['letter']}")
        elif letter["state"] == "REPLAYING":
            steps.append(f"its dead letter is being replayed: handrail dlq show {letter['letter']}")
    if not steps and _failing_since(transitions):
        look = f"how the system is: handrail alerts; what was tried: handrail trace {run['run']}"
        steps.append(f"nothing, if it may wait: it is tried again. See {look}")
    if not steps and run["state"] not in ENDS and now - run["updated_at"] > SLOW_MS:
        steps.append("nothing has moved for a while: handrail status, handrail logs")
    return tuple(steps)


def task_steps(task: Row) -> list[str]:
    """How a person answers an open task."""
    if task["kind"] == "approval":
        return [
            f"handrail tasks approve {task['task']}",
            f'handrail tasks reject {task["task"]} --reason "…"',
        ]
    runbook = f" (see {task['runbook']})" if task["runbook"] else ""
    return [
        f"do it by hand{runbook}, then: handrail tasks done {task['task']}",
        f'or give it up: handrail tasks reject {task["task"]} --reason "…"',
    ]
