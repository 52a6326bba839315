"""The effect ledger: from a command's intent to its one outcome. Pure: no HTTP, no Kafka, no clock of its own.

An effect is `queued` behind an earlier one of its route, an `intent` (it may be called now), `waiting` for its next attempt,
`accepted` (to be verified) or `unknown` (to be verified before anything else). Each row has a timer: after a crash nothing
needs special care, the timer of what was left open comes due, and an intent that nobody answers for is verified first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from handrail.flow import Flow, Operation, Step, System
from handrail.identity import output_id
from handrail.message import Due, Finished, Message, Output, Run
from handrail.pending import View
from handrail.recovery import DeadLetter, ErrorClass, FailureInfo, Policy, Retry, classify, decide
from handrail.traceparent import kept

from handrail_action.answers import Absent, Answer, Encode, Good, judge
from handrail_action.calls import Job, Kind, Reply

COMMAND = "handrail/command.v1"
OUTCOME = "handrail/outcome.v1"
FAILING = "handrail/step-failing.v1"
TABLES = {"effects": "handrail/effect.v1", "queues": "handrail/effect-queue.v1"}
TIMER = "effect"
SEND_WINDOW_MS = 5_000
CHECK_AGAIN_MS = 250
LOST_CHECK_MS = 1_000
ASK_FOR_MS = 15 * 60_000

Row = dict[str, Any]
Decode = Callable[[bytes], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Context:
    """What one effect needs: its command, its step, and how its system is called and asked."""

    command: Mapping[str, Any]
    flow: Flow
    step: Step
    operation: Operation
    question: Operation | None


@dataclass(frozen=True, slots=True)
class Effects:
    """The handler of `action.<system>`. `flow` gives a version of a flow; `jitter` numbers in [0, 1)."""

    system: System
    flow: Callable[[str, int], Flow]
    decode: Decode
    encode: Encode
    jitter: Callable[[], float]

    def __call__(self, given: Message | Due | Finished, view: View) -> Iterable[Output]:
        """A command is taken, a call has come back, or something is due; then whatever is free to begin begins."""
        outputs: list[Output] = []
        if isinstance(given, Message):
            route = self._take(given, view)
        else:
            row = view.get("effects", given.key)
            if row is None:
                return []
            reply = given.result if isinstance(given, Finished) else None
            step = self._due if reply is None else partial(self._answered, reply)
            outputs += self._safely(step, dict(row), view)
            if view.get("effects", given.key) is not None:
                return outputs
            route = self.decode(row["command"])["route"]
        while (row := self._first_of(route, view)) and row["state"] == "queued":
            outputs += self._safely(self._call, dict(row), view)
        return outputs

    def _safely(self, step: Callable[[Row, View], list[Output]], row: Row, view: View) -> list[Output]:
        """Whatever goes wrong with a command that could be decoded, decision hears of it: nothing is left open for ever."""
        called = row["state"] in ("intent", "accepted", "unknown")
        failed_before = row["first_failure_at"] is not None
        try:
            outputs = step(row, view)
            begins_to_fail = row["first_failure_at"] is not None and not failed_before
            if begins_to_fail and view.get("effects", row["id"]) is not None:
                outputs.append(self._failing(row))
            return outputs
        except Exception as error:
            info = classify(error)
            if info.error_class is ErrorClass.CRITICAL:
                raise
            status = "unknown" if called or row["checks"] else "failed"
            return self._end(row, self.decode(row["command"]), view, status, info)

    # --- intents

    def _take(self, message: Message, view: View) -> str:
        """The whole command becomes a row, queued behind the others of its route; the route."""
        command = message.body
        route: str = command["route"]
        key = f"{command['run']}/{command['step']}/r{command['revision']}"
        if view.get("effects", key) is not None:
            return route
        queue = view.get("queues", route)
        view.put("queues", route, {"route": route, "effects": [*(queue["effects"] if queue else []), key]})
        row: Row = {
            "id": key,
            "command": message.value,
            "traceparent": message.traceparent,
            "cause": message.id,
            "state": "queued",
            "attempts": 0,
            "counted": 0,
            "checks": 0,
            "send_by": 0,
            "dead_at": 0,
            "asked_from": None,
            "due_at": 0,
            "failure_class": None,
            "reason": None,
            "response": None,
            "first_failure_at": None,
            "started_at": view.now,
        }
        view.put("effects", key, row)
        return route

    def _call(self, row: Row, view: View) -> list[Output]:
        """Commit the intent; the call starts after that."""
        context = self._context(row)
        deadlines = self.system.deadlines
        send_by = view.now + SEND_WINDOW_MS
        dead_at = send_by + deadlines.total_ms
        row |= {
            "state": "intent",
            "attempts": row["attempts"] + 1,
            "send_by": send_by,
            "dead_at": dead_at,
            "asked_from": None,
            "response": None,
        }
        job = self._job("call", row, context, context.operation)
        self._wait(row, view, dead_at + self.system.settle_ms)
        view.start(row["id"], job)
        return []

    def _check(self, row: Row, context: Context, view: View) -> list[Output]:
        """Ask whether it happened. Without a question, the key is sent again where it is honoured, or a person looks."""
        row |= {"checks": row["checks"] + 1, "asked_from": row["asked_from"] or view.now}
        if context.question is None:
            reason = row["reason"] or "nobody can say whether it happened"
            info = FailureInfo(ErrorClass.UNKNOWN_OUTCOME, message=reason)
            if self.system.idempotency == "honoured":
                return self._again(row, context, view, replace(info, error_class=ErrorClass.TRANSIENT))
            return self._end(row, context.command, view, "unknown", info)
        send_by = view.now + SEND_WINDOW_MS
        row["send_by"] = send_by
        job = self._job("verify", row, context, context.question)
        self._wait(row, view, send_by + self.system.deadlines.total_ms + LOST_CHECK_MS)
        view.start(row["id"], job)
        return []

    def _job(self, kind: Kind, row: Row, context: Context, operation: Operation) -> Job:
        request = self.decode(context.command["request"])
        event = self.decode(context.command["event"])
        headers = {"Accept": "application/json"}
        body = None
        if kind == "call":
            headers["Idempotency-Key"] = row["id"]
            if operation.request is not None:
                headers["Content-Type"] = "application/json"
                body = json.dumps(request, ensure_ascii=False).encode()
        deadlines = self.system.deadlines
        return Job(
            kind=kind,
            attempt=row["attempts"],
            check=row["checks"],
            method=operation.method,
            url=self.system.base_url + operation.path(request, event),
            headers=headers,
            body=body,
            send_by=row["send_by"],
            connect_ms=deadlines.connect_ms,
            total_ms=deadlines.total_ms,
            traceparent=row["traceparent"],
            run=context.command["run"],
        )

    # --- answers

    def _answered(self, reply: Reply, row: Row, view: View) -> list[Output]:
        """A late reply of an earlier attempt or check is no news."""
        expected = "call" if row["state"] == "intent" else "verify" if row["state"] in ("accepted", "unknown") else None
        if reply.kind != expected or reply.attempt != row["attempts"] or reply.check != row["checks"]:
            return []
        context = self._context(row)
        row["traceparent"] = reply.traceparent or row["traceparent"]
        if reply.kind == "call":
            answer = judge(self.system, context.operation, reply, self.encode, view.now)
            _count(answer, view)
            return self._called(row, context, answer, view)
        if context.question is None:
            return []
        answer = judge(self.system, context.question, reply, self.encode, view.now)
        _count(answer, view)
        return self._verified(row, context, answer, view)

    def _called(self, row: Row, context: Context, answer: Answer, view: View) -> list[Output]:
        match answer:
            case Good(value=value) if context.question is None:
                row["response"] = value
                return self._end(row, context.command, view, "accepted", None)
            case Good(value=value):
                row |= {"state": "accepted", "response": value}
                return self._check(row, context, view)
            case FailureInfo(error_class=ErrorClass.UNKNOWN_OUTCOME):
                self._note(row, answer, view)
                row["state"] = "unknown"
                self._wait(row, view, view.now + self.system.settle_ms)
                return []
            case FailureInfo():
                return self._again(row, context, view, answer)
            case Absent():
                reason = "the answer to a call can't be that there is none"
                return self._again(row, context, view, FailureInfo(ErrorClass.BUSINESS, message=reason))

    def _verified(self, row: Row, context: Context, answer: Answer, view: View) -> list[Output]:
        match answer:
            case Good(value=value):
                return self._compared(row, context, value, view)
            case Absent():
                return self._absent(row, context, view)
            case FailureInfo():
                return self._check_again(row, context, view, answer)

    def _compared(self, row: Row, context: Context, value: bytes | None, view: View) -> list[Output]:
        """Something is there. If it is not what was asked for, doing it again would make it worse: a person looks."""
        event, request = self.decode(context.command["event"]), self.decode(context.command["request"])
        if context.flow.verified(context.step.id, event, request, self.decode(value) if value else {}):
            row["response"] = value
            return self._end(row, context.command, view, "verified", None)
        expect = context.step.verify.expect if context.step.verify else ""
        reason = f"{self.system.name} has something else than what was asked for: not {expect}"
        return self._end(row, context.command, view, "unknown", FailureInfo(ErrorClass.BUSINESS, message=reason))

    def _absent(self, row: Row, context: Context, view: View) -> list[Output]:
        """It is not there. After a lost reply one conclusive answer is enough; after a success it may still appear."""
        within = context.step.verify.within_ms if context.step.verify else 0
        patient = row["state"] == "accepted" or not self.system.conclusive
        if patient and view.now < (row["asked_from"] or 0) + within:
            self._wait(row, view, view.now + CHECK_AGAIN_MS)
            return []
        said = "answered well" if row["state"] == "accepted" else f"gave no clear answer ({row['reason']})"
        reason = f"{self.system.name} {said}, and it is not there"
        if not self.system.conclusive:
            info = FailureInfo(ErrorClass.UNKNOWN_OUTCOME, message=f"{reason}; it can't be asked conclusively")
            return self._end(row, context.command, view, "unknown", info)
        return self._again(row, context, view, FailureInfo(ErrorClass.TRANSIENT, message=reason))

    # --- failures

    def _again(self, row: Row, context: Context, view: View, info: FailureInfo) -> list[Output]:
        """It did not happen: the same key again by the flow's policy, or it has failed."""
        self._note(row, info, view)
        first = row["first_failure_at"]
        verdict = decide(context.flow.policy, info, row["counted"] + 1, first, view.now, self.jitter())
        if isinstance(verdict, Retry):
            row |= {"state": "waiting", "counted": row["counted"] + int(verdict.counted)}
            self._wait(row, view, verdict.due_at)
            return []
        reason = f"{info.message} ({verdict.reason})" if isinstance(verdict, DeadLetter) else info.message
        # Without a question nobody has found out about an earlier lost call, and "failed" would say that it did not happen.
        if context.question is None and row["checks"]:
            unknown = replace(info, error_class=ErrorClass.UNKNOWN_OUTCOME, message=reason)
            return self._end(row, context.command, view, "unknown", unknown)
        return self._end(row, context.command, view, "failed", replace(info, message=reason))

    def _check_again(self, row: Row, context: Context, view: View, info: FailureInfo) -> list[Output]:
        """The question failed. Asking does no harm, so time alone limits it; then a person must look."""
        self._note(row, info, view)
        first = row["asked_from"] or view.now
        verdict = decide(_asking(context), info, 1, first, view.now, self.jitter())
        if isinstance(verdict, Retry):
            self._wait(row, view, verdict.due_at)
            return []
        reason = f"nobody can say whether it happened: {info.message}"
        return self._end(row, context.command, view, "unknown", replace(info, message=reason))

    def _due(self, row: Row, view: View) -> list[Output]:
        context = self._context(row)
        match row["state"]:
            case "waiting":
                return self._call(row, view)
            case "intent":
                info = FailureInfo(ErrorClass.UNKNOWN_OUTCOME, message="the call was cut off")
                if context.operation.safe:
                    return self._again(row, context, view, replace(info, error_class=ErrorClass.TRANSIENT))
                self._note(row, info, view)
                row["state"] = "unknown"
                return self._check(row, context, view)
            case "accepted" | "unknown":
                return self._check(row, context, view)
            case _:
                return []

    def _note(self, row: Row, info: FailureInfo, view: View) -> None:
        row |= {
            "failure_class": str(info.error_class),
            "reason": info.message,
            "first_failure_at": row["first_failure_at"] or view.now,
            "traceparent": kept(row["traceparent"]),
        }

    def _failing(self, row: Row) -> Output:
        """Decision hears of the first failure at once: until the outcome, which may take hours, nobody else would."""
        command = self.decode(row["command"])
        body = {
            **{name: command[name] for name in ("run", "flow", "version", "step", "revision")},
            "failure_class": row["failure_class"],
            "reason": row["reason"],
            "attempts": row["attempts"],
            "at": row["first_failure_at"],
        }
        return self._to_decision(row, command, FAILING, "failing", body)

    # --- ends

    def _end(
        self, row: Row, command: Mapping[str, Any], view: View, status: str, info: FailureInfo | None
    ) -> list[Output]:
        """The one outcome of the command; the next effect of the route is free to begin."""
        if info is not None:
            self._note(row, info, view)
        body = {
            "run": command["run"],
            "flow": command["flow"],
            "version": command["version"],
            "step": command["step"],
            "revision": command["revision"],
            "status": status,
            "failure_class": str(info.error_class) if info else None,
            "reason": info.message if info else None,
            "response": row["response"],
            "attempts": row["attempts"],
            "started_at": row["started_at"],
            "ended_at": view.now,
            "first_failure_at": row["first_failure_at"],
        }
        outcome = self._to_decision(row, command, OUTCOME, "outcome", body)
        view.put("effects", row["id"], None)
        view.set_timer(TIMER, row["id"], None)
        queue = view.get("queues", command["route"])
        left = [each for each in queue["effects"] if each != row["id"]] if queue else []
        view.put("queues", command["route"], {"route": command["route"], "effects": left} if left else None)
        return [outcome]

    def _to_decision(
        self, row: Row, command: Mapping[str, Any], contract: str, name: str, body: Mapping[str, Any]
    ) -> Output:
        """On the run's own way: what is told of one command stays in order."""
        return Output(
            f"{command['flow']}.decision",
            contract,
            command["route"],
            body=body,
            run=Run(command["run"], command["flow"], command["version"]),
            id=output_id(row["id"], name, 0),
            cause=row["cause"],
            traceparent=row["traceparent"],
        )

    def _first_of(self, route: str, view: View) -> Mapping[str, Any] | None:
        queue = view.get("queues", route)
        return view.get("effects", queue["effects"][0]) if queue else None

    def _wait(self, row: Row, view: View, due_at: int) -> None:
        row["due_at"] = due_at
        view.put("effects", row["id"], row)
        view.set_timer(TIMER, row["id"], due_at)

    def _context(self, row: Row) -> Context:
        command = self.decode(row["command"])
        flow = self.flow(command["flow"], command["version"])
        step = flow.step(command["step"])
        question = flow.question(step)
        return Context(command, flow, step, flow.operation(step)[1], question[1] if question else None)


def _count(answer: Answer, view: View) -> None:
    """What the system said of one call or question: `calls.good`, or `calls.<class of the failure>`."""
    view.count(f"calls.{answer.error_class}" if isinstance(answer, FailureInfo) else "calls.good")


def _asking(context: Context) -> Policy:
    """The flow's policy for questions: as often as it takes, further and further apart, until it has taken too long."""
    within = context.step.verify.within_ms if context.step.verify else 0
    usual = context.flow.policy
    patient = replace(usual.backoff(ErrorClass.TRANSIENT), times=None, max_age_ms=within + ASK_FOR_MS, discard=False)
    return Policy({**usual.backoffs, ErrorClass.TRANSIENT: patient})
