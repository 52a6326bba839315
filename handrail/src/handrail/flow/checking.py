"""From a flow file to a flow that can be run: everything that a single file can't know is checked here."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as Values
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cel_expr_python import cel

from handrail.contracts import Contract, Contracts
from handrail.errors import ConfigError, Problem
from handrail.flow.bound import Ask, Flow
from handrail.flow.cel import Scope
from handrail.flow.mapping import Mapping, Modules
from handrail.flow.model import FlowFile, Retry, Step
from handrail.flow.reading import Document, Loc, did_you_mean
from handrail.flow.run import DONE
from handrail.flow.system import Operation, System, placeholders
from handrail.flow.table import Table, compile_at, read_table
from handrail.recovery import Policy

_EVENT = ("event",)
_ALL = ("event", "request", "responses")
_KEYS = ("string", "int", "long", "boolean")
_NUMBERS = ("int", "long", "float", "double")
_TIMES = ("long",)
_WORDS = ("string", "enum")
_DECISION = {"decision.route": cel.Type.STRING, "decision.row": cel.Type.STRING, "decision.reason": cel.Type.STRING}


@dataclass(frozen=True)
class World:
    """What flows may refer to."""

    contracts: Contracts
    systems: Values[str, System]


@dataclass
class Checked:
    """What came out of reading one version: problems refuse it, warnings don't."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def bind(file: FlowFile, document: Document, folder: Path, world: World, checked: Checked) -> Flow | None:
    """The flow, bound; None, and every problem found, when it can't be run."""
    return _Binder(file, document, folder, world, checked).bind()


class _Binder:
    def __init__(self, file: FlowFile, document: Document, folder: Path, world: World, checked: Checked) -> None:
        self.file = file
        self.document = document
        self.folder = folder
        self.world = world
        self.checked = checked
        self.shown = document.file.rpartition("/")[0]
        self.bodies: dict[str, Contract] = {}
        self.modules = Modules(folder, self.shown, checked.problems)

    def bind(self) -> Flow | None:
        before = len(self.checked.problems)
        self._place()
        event = self._contract(("trigger", "contract"), self.file.trigger.contract)
        if event:
            self._fields_of(event)
            self._outcomes(event)
        self._calls()
        request = self._request()
        self._result()
        self._manual()
        policy = self._policy()
        mapping = self._mapping()
        table, conditions, expectations = None, {}, {}
        if event and request:
            table = self._table(event, request)
            self._steps(event, request)
            conditions = self._conditions(event, request)
            expectations = self._expectations(event)
        if len(self.checked.problems) > before or request is None or mapping is None:
            return None
        return Flow(
            definition=self.file,
            folder=self.folder,
            mapping=mapping,
            table=table,
            request_contract=request.name,
            policy=policy,
            systems=self.world.systems,
            contracts=self.world.contracts,
            conditions=conditions,
            expectations=expectations,
        )

    def _refuse(self, loc: Loc, what: str, instead: str = "") -> None:
        self.checked.problems.append(self.document.problem(loc, what, instead))

    def _warn(self, loc: Loc, what: str, instead: str = "") -> None:
        self.checked.warnings.append(self.document.problem(loc, what, instead))

    def _place(self) -> None:
        expected = f"{self.file.flow}/v{self.file.version}"
        actual = f"{self.folder.parent.name}/{self.folder.name}"
        if actual != expected:
            self._refuse(("flow",), f"{expected} stands in the folder {actual}", f"move it to flows/{expected}")

    def _contract(self, loc: Loc, name: str) -> Contract | None:
        if name in self.world.contracts:
            return self.world.contracts[name]
        self._refuse(loc, f"there is no contract {name}", did_you_mean(name, self.world.contracts.names()))
        return None

    def _fields_of(self, event: Contract) -> None:
        known = {each.name: each.type for each in event.fields}
        trigger = self.file.trigger
        keys: list[tuple[Loc, str]] = [(("trigger", "key"), trigger.key)]
        keys += [(("trigger", "dedupe", index), name) for index, name in enumerate(trigger.dedupe)]
        for loc, name in keys:
            if name in known and known[name] not in _KEYS:
                self._refuse(loc, f"`{name}` of {event.name} can't tell runs apart: it may be null or is not plain")
        if trigger.key in known and trigger.key not in trigger.dedupe:
            self._refuse(
                ("trigger", "key"),
                f"copies of one event may differ in `{trigger.key}`: they would go to two partitions and both be handled",
                f"add it to `dedupe`, or take one of {', '.join(trigger.dedupe)}",
            )
        keys += [(("segments", index), name) for index, name in enumerate(self.file.segments)]
        for loc, name in keys:
            if name not in known:
                self._refuse(loc, f"{event.name} has no field `{name}`", did_you_mean(name, known))

    def _outcomes(self, event: Contract) -> None:
        known = {each.name: each.type for each in event.fields}
        for name, outcome in self.file.outcomes.items():
            for key, field_, kinds, like in (
                ("from", outcome.since, _TIMES, "a `long`, milliseconds since the epoch"),
                ("amount", outcome.amount, _NUMBERS, "a number"),
                ("unit", outcome.unit, _WORDS, "a text"),
            ):
                loc: Loc = ("outcomes", name, key)
                if field_ is not None and field_ not in known:
                    self._refuse(loc, f"{event.name} has no field `{field_}`", did_you_mean(field_, known))
                elif field_ is not None and not _is(known[field_], kinds):
                    self._refuse(loc, f"`{field_}` of {event.name} is not {like}")
            ids = [step.id for step in self.file.steps]
            if outcome.until not in (None, DONE, *ids):
                what = f"there is no step `{outcome.until}`"
                self._refuse(("outcomes", name, "until"), what, did_you_mean(outcome.until or "", [*ids, DONE]))

    def _request(self) -> Contract | None:
        """The contract of what the transform makes: as `request` says, or that of the first call without `with`."""
        if self.file.request:
            return self._contract(("request",), self.file.request)
        for index, step in enumerate(self.file.steps):
            operation = self._operation(("steps", index, "call"), step.call, quiet=True)
            if step.with_ is None and operation and operation.request:
                return self._contract(("steps", index, "call"), operation.request)
        if not any(step.call and step.with_ is None for step in self.file.steps):
            self._refuse((), "nothing says what the transform makes", "write `request: domain.event.v1`")
        return None

    def _result(self) -> None:
        if self.file.result:
            self._contract(("result",), self.file.result)

    def _manual(self) -> None:
        if not (self.folder / self.file.manual.runbook).is_file():
            what = f"there is no {self.shown}/{self.file.manual.runbook}"
            self._refuse(("manual", "runbook"), what, "write what the team does when the flow is down")

    def _policy(self) -> Policy:
        config = {name: _given(retry) for name, retry in self.file.retry.items()}
        for name, given in list(config.items()):
            try:
                Policy.from_config({name: given})
            except ConfigError as error:
                self._refuse(("retry", name), str(error))
                del config[name]
        return Policy.from_config(config)

    def _mapping(self) -> Mapping | None:
        transform = self._function(("transform",), self.file.transform, _EVENT)
        bodies = {}
        for index, step in enumerate(self.file.steps):
            made = self._function(("steps", index, "with"), step.with_, _ALL) if step.with_ else None
            if made:
                bodies[step.id] = made
        done = self._function(("done",), self.file.done, _ALL) if self.file.done else None
        return Mapping(transform, bodies, done) if transform else None

    def _function(self, loc: Loc, reference: str, arguments: tuple[str, ...]) -> Callable[..., Any] | None:
        return self.modules.function(reference, arguments, self.document.problem(loc, ""))

    def _table(self, event: Contract, request: Contract) -> Table | None:
        if self.file.decide is None:
            return None
        path = self.folder / self.file.decide
        if not path.is_file():
            self._refuse(("decide",), f"there is no {self.shown}/{self.file.decide}", "write the decision table there")
            return None
        scope = Scope({"event": event, "request": request})
        return read_table(path, f"{self.shown}/{self.file.decide}", scope, self.checked.problems)

    def _operation(self, loc: Loc, call: str | None, *, quiet: bool = False) -> Operation | None:
        if call is None:
            return None
        name, _, operation = call.partition(".")
        system = self.world.systems.get(name)
        found = system.operations.get(operation) if system else None
        if found is None and not quiet:
            if system is None:
                self._refuse(loc, f"there is no system `{name}`", did_you_mean(name, self.world.systems))
            else:
                what = f"the system `{name}` has no operation `{operation}`"
                self._refuse(loc, what, did_you_mean(operation, system.operations))
        return found

    def _calls(self) -> None:
        """Every call names an operation that is there."""
        for index, step in enumerate(self.file.steps):
            self._operation(("steps", index, "call"), step.call)
            if step.verify:
                self._operation(("steps", index, "verify", "call"), step.verify.call)

    def _steps(self, event: Contract, request: Contract) -> None:
        for index, step in enumerate(self.file.steps):
            loc: Loc = ("steps", index)
            operation = self._operation(loc, step.call, quiet=True)
            if operation is None:
                continue
            body = self.bodies[step.id] = self._body_contract((*loc, "call"), step, operation, request)
            self._fillable((*loc, "call"), step.call or "", operation, event, body)
            self._verification(loc, step, operation, event, body)

    def _body_contract(self, loc: Loc, step: Step, operation: Operation, request: Contract) -> Contract:
        """What `request` is to the step's call and its verification."""
        if operation.request is None or operation.request not in self.world.contracts:
            return request
        if step.with_ is None and operation.request != request.name:
            what = f"{step.call} takes {operation.request}, and the transform makes {request.name}"
            self._refuse(loc, what, "give the step a `with: mapping:function` that makes the body")
        return self.world.contracts[operation.request]

    def _fillable(self, loc: Loc, call: str, operation: Operation, event: Contract, request: Contract) -> None:
        roots = {"event": event, "request": request}
        for name in placeholders(operation.template):
            root, _, wanted = name.partition(".")
            known = [each.name for each in roots[root].fields]
            if wanted not in known:
                what = f"the path of {call} wants {{{name}}}, and {roots[root].name} has no such field"
                self._refuse(loc, what, did_you_mean(wanted, known))

    def _verification(self, loc: Loc, step: Step, operation: Operation, event: Contract, request: Contract) -> None:
        if step.verify is None:
            if not operation.safe:
                tell = self._refuse if self.file.criticality == "high" else self._warn
                what = f"the step `{step.id}` is not verified: what the system answers is believed"
                tell(loc, what, "write `verify: {call: …, expect: …}`")
            return
        here: Loc = (*loc, "verify", "call")
        question = self._operation(here, step.verify.call, quiet=True)
        if question is None:
            return
        if not question.safe:
            self._refuse(here, f"{step.verify.call} changes something, so it can't verify", "use a GET")
        if question.response is None:
            self._refuse(here, f"{step.verify.call} has no `response` to look at", "give the operation its `response`")
        if step.verify.call.partition(".")[0] != step.system:
            self._refuse(here, "this build verifies only in the system that the step calls", f"use {step.system}.…")
        self._fillable(here, step.verify.call, question, event, request)

    def _conditions(self, event: Contract, request: Contract) -> dict[str, Ask]:
        """Each step's `when`. It may ask about the answers of earlier steps that are always taken."""
        roots = {"event": event, "request": request}
        variables = dict(_DECISION) if self.file.decide else {}
        found = {}
        for index, step in enumerate(self.file.steps):
            if step.when:
                scope = Scope(roots, variables)
                condition = compile_at(self.document, ("steps", index, "when"), step.when, scope, self.checked.problems)
                if condition:
                    found[step.id] = Ask(scope, condition)
            elif step.call and "-" not in step.id:
                operation = self._operation((), step.call, quiet=True)
                if operation and operation.response in self.world.contracts:
                    roots = {**roots, f"responses.{step.id}": self.world.contracts[operation.response or ""]}
        return found

    def _expectations(self, event: Contract) -> dict[str, Ask]:
        found = {}
        for index, step in enumerate(self.file.steps):
            question = self._operation((), step.verify.call, quiet=True) if step.verify else None
            if step.verify is None or question is None or question.response is None:
                continue
            if question.response not in self.world.contracts or step.id not in self.bodies:
                continue
            response = self.world.contracts[question.response]
            scope = Scope({"event": event, "request": self.bodies[step.id], "response": response})
            loc: Loc = ("steps", index, "verify", "expect")
            condition = compile_at(self.document, loc, step.verify.expect, scope, self.checked.problems)
            if condition:
                found[step.id] = Ask(scope, condition)
        return found


def _is(avro: Any, kinds: tuple[str, ...]) -> bool:
    """Whether a field's type is one of these, or one of these or null."""
    parts = avro if isinstance(avro, list) else [avro]
    names = [part.get("type") if isinstance(part, dict) else part for part in parts]
    return any(name in kinds for name in names) and all(name in (*kinds, "null") for name in names)


def _given(retry: Retry) -> dict[str, Any]:
    """In the words of recovery's Policy, without what the flow leaves to the defaults."""
    values = {name: getattr(retry, name) for name in type(retry).model_fields}
    return {name: value for name, value in values.items() if value is not None}
