"""CEL expressions over the fields of contracts: typed when they are read, quick when they are asked.

Every field is declared as a dotted variable of its own type ("event.total_minor": INT), so a field that no contract has
and a comparison of text with a number are found when the flow is read. A field that may be null is DYN.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cel_expr_python import cel

from handrail.contracts import Contract
from handrail.errors import Failure
from handrail.flow.reading import did_you_mean

_KINDS = {
    "boolean": cel.Type.BOOL,
    "int": cel.Type.INT,
    "long": cel.Type.INT,
    "float": cel.Type.DOUBLE,
    "double": cel.Type.DOUBLE,
    "string": cel.Type.STRING,
    "enum": cel.Type.STRING,
    "bytes": cel.Type.BYTES,
    "fixed": cel.Type.BYTES,
}
_ERROR = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")
_NO_OVERLOAD = re.compile(r"found no matching overload for '_?(.*?)_?' applied to '\((.*)\)'")
_DATA_AT_FAULT = ("No value with name", "null_type", "Unexpected value type")


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong in an expression; line and column count from 1."""

    line: int
    column: int
    what: str
    instead: str = ""


class ExpressionError(ValueError):
    """An expression does not compile, or is not a yes or no."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("; ".join(mistake.what for mistake in mistakes))
        self.mistakes = mistakes


class Condition:
    """A compiled expression that says yes or no. Immutable."""

    __slots__ = ("_expression", "text")

    def __init__(self, text: str, expression: Any) -> None:
        self.text = text
        self._expression = expression

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Ask it with the values of `Scope.flatten`.

        Raises Failure: "contract" when the data lacks what it needs, "bug" for everything else (division by zero).
        """
        result = self._expression.eval(data=values)
        answer = result.value()
        if isinstance(answer, bool) and result.type() != cel.Type.ERROR:
            return answer
        text = str(answer)
        at_fault = "contract" if any(sign in text for sign in _DATA_AT_FAULT) else "bug"
        raise Failure(at_fault, f"the rule `{self.text}` can't be answered: {text}")


@dataclass(frozen=True, slots=True)
class _Leaf:
    name: str
    path: tuple[str, ...]
    optional: bool


class Scope:
    """What an expression may speak of. `roots` maps a name ("event", "responses.invoice") to a contract."""

    def __init__(self, roots: Mapping[str, Contract], variables: Mapping[str, cel.Type] | None = None) -> None:
        """`variables` are further names with their types; `flatten` takes their values as they are."""
        self._leaves: dict[str, tuple[_Leaf, ...]] = {}
        declared: dict[str, cel.Type] = dict(variables or {})
        for root, contract in roots.items():
            leaves: list[_Leaf] = []
            for field in contract.fields:
                _declare(root, (field.name,), field.type, declared, leaves)
            self._leaves[root] = tuple(leaves)
        self._names = tuple(declared)
        self._env = cel.NewEnv(variables=declared)

    def condition(self, text: str) -> Condition:
        """Compile. Raises ExpressionError with everything that is wrong."""
        try:
            expression = self._env.compile(text)
        except RuntimeError as error:
            raise ExpressionError(self._mistakes(str(error))) from None
        kind = expression.return_type()
        if kind != cel.Type.BOOL:
            what = f"`{text}` gives {kind.name()}, not a yes or no"
            raise ExpressionError([Mistake(1, 1, what, "compare it with something: `… == …`")])
        return Condition(text, expression)

    def flatten(
        self, values: Mapping[str, Mapping[str, Any]], variables: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The values by dotted name. What a record lacks is left out, unless it may be null."""
        flat: dict[str, Any] = dict(variables or {})
        for root, leaves in self._leaves.items():
            record = values.get(root)
            if record is None:
                continue
            for leaf in leaves:
                value: Any = record
                for part in leaf.path:
                    value = value.get(part) if value is not None else None
                if value is not None or leaf.optional:
                    flat[leaf.name] = value
        return flat

    def _mistakes(self, message: str) -> list[Mistake]:
        found = [Mistake(int(line), int(column), *self._words(what)) for line, column, what in _ERROR.findall(message)]
        return found or [Mistake(1, 1, message)]

    def _words(self, what: str) -> tuple[str, str]:
        undeclared = _UNDECLARED.match(what)
        if undeclared:
            return f"no contract has a field `{undeclared[1]}`", did_you_mean(undeclared[1], self._names)
        overload = _NO_OVERLOAD.match(what)
        if overload:
            return f"`{overload[1]}` can't be used between {overload[2].replace(', ', ' and ')}", ""
        return what.removeprefix("Syntax error: "), ""


def _declare(root: str, path: tuple[str, ...], avro: Any, declared: dict[str, cel.Type], leaves: list[_Leaf]) -> None:
    """Declare a field, or the fields of a record that can't be null, each by its dotted name."""
    if isinstance(avro, dict) and avro.get("type") == "record":
        for field in avro["fields"]:
            _declare(root, (*path, field["name"]), field["type"], declared, leaves)
        return
    name = ".".join((root, *path))
    declared[name] = _cel_type(avro)
    leaves.append(_Leaf(name, path, isinstance(avro, list) and "null" in avro))


def _cel_type(avro: Any) -> cel.Type:
    if isinstance(avro, str):
        return _KINDS.get(avro, cel.Type.DYN)
    if not isinstance(avro, dict):
        return cel.Type.DYN
    match avro.get("type"):
        case "array":
            return cel.Type.List(_cel_type(avro["items"]))
        case "map":
            return cel.Type.Map(cel.Type.STRING, _cel_type(avro["values"]))
        case kind:
            return _cel_type(kind)
