"""The rules of a contract's fields, `missing` and `valid`, compiled once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cel_expr_python import cel
from fastavro import parse_schema

from handrail.contracts.model import AvroType, Contract, Field
from handrail.errors import ContractBroken

_CEL = {
    "boolean": "BOOL",
    "int": "INT",
    "long": "INT",
    "float": "DOUBLE",
    "double": "DOUBLE",
    "string": "STRING",
    "enum": "STRING",
}
_NUL = "\x00"


class _Types:
    """The types of a contract's fields, with types that are used by name looked up."""

    def __init__(self, contract: Contract) -> None:
        parsed: Any = parse_schema(contract.schema)
        self._named: dict[str, Any] = parsed["__named_schemas"]
        self._fields: dict[str, AvroType] = {field["name"]: field["type"] for field in parsed["fields"]}

    def kind(self, field: str) -> str:
        """One of the Avro kinds that the field can have; "dyn" where several are possible."""
        return self._kind(self._fields[field])

    def holds(self, field: str, kinds: tuple[str, ...]) -> bool:
        """Whether the field may hold one of these kinds, at any depth. A map's keys are text."""
        return self._holds(self._fields[field], kinds)

    def _kind(self, avro: AvroType) -> str:
        if isinstance(avro, list):
            kinds = {self._kind(branch) for branch in avro if branch != "null"}
            return kinds.pop() if len(kinds) == 1 else "dyn"
        if isinstance(avro, dict):
            return self._kind(avro["type"])
        return self._kind(self._named[avro]) if avro in self._named else str(avro)

    def _holds(self, avro: AvroType, kinds: tuple[str, ...]) -> bool:
        if isinstance(avro, list):
            return any(self._holds(branch, kinds) for branch in avro)
        if not isinstance(avro, dict):
            return self._holds(self._named[avro], kinds) if avro in self._named else avro in kinds
        if avro["type"] == "record":
            return any(self._holds(field["type"], kinds) for field in avro["fields"])
        if avro["type"] == "array":
            return self._holds(avro["items"], kinds)
        if avro["type"] == "map":
            return "string" in kinds or self._holds(avro["values"], kinds)
        return self._holds(avro["type"], kinds)


class Environments:
    """CEL environments by the type of `value`: making one takes milliseconds, and there are few types."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def compile(self, field: Field, types: _Types) -> Any:
        """The field's `valid` as a CEL program. Raises ValueError, in words for the contract's author."""
        if types.holds(field.name, ("bytes", "fixed")):
            raise ValueError("is on bytes: CEL here sees bytes only up to the first zero (cel-expr-python 0.1.3)")
        kind = types.kind(field.name)
        if kind not in self._made:
            self._made[kind] = cel.NewEnv(variables={"value": _cel_type(kind)})
        try:
            program = self._made[kind].compile(field.valid)
        except RuntimeError as error:
            raise ValueError(_plain(str(error))) from None
        if program.return_type() != cel.Type.BOOL:
            raise ValueError(f"must give true or false, but gives {program.return_type().name()}")
        return program


class Rules:
    """What `check` asks of each field of one contract."""

    __slots__ = ("_name", "_reject", "_texts", "_valid")

    def __init__(self, contract: Contract, environments: Environments) -> None:
        """Raises ValueError naming the field when one of the rules does not compile."""
        self._name = contract.name
        self._reject = tuple((field.name, field.critical) for field in contract.fields if field.missing == "reject")
        types = _Types(contract)
        valid = []
        for field in contract.fields:
            if field.valid is None:
                continue
            try:
                valid.append((field.name, field.valid, environments.compile(field, types).eval))
            except ValueError as error:
                raise ValueError(f"field {field.name}: valid {field.valid!r} {error}") from None
        self._valid = tuple(valid)
        self._texts = tuple(field.name for field in contract.fields if types.holds(field.name, ("string",)))

    def check(self, value: Mapping[str, Any]) -> None:
        """Raise ContractBroken for the first field that is missing or not valid.

        Text with the character U+0000 is never valid: CEL here sees a text only up to it, so that "EUR\\0, and more" would
        pass as "EUR" in this rule and in a flow's (cel-expr-python 0.1.3).
        """
        for name, critical in self._reject:
            found = value.get(name)
            if found is None or (critical and found == ""):
                state = "empty" if found == "" else "missing"
                raise ContractBroken(f"{self._name}: {name} is {state} and must be given", field=name)
        for name in self._texts:
            if _has_nul(value.get(name)):
                raise ContractBroken(f"{self._name}: {name} is not valid: it holds the character U+0000", field=name)
        for name, rule, evaluate in self._valid:
            found = value.get(name)
            if found is None:
                continue
            result = evaluate(data={"value": found}).value()
            if result is not True:
                why = "" if result is False else f" ({result})"
                raise ContractBroken(f"{self._name}: {name} is not valid: {rule}{why}", field=name)


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return _NUL in value
    if isinstance(value, Mapping):
        return any(_has_nul(key) or _has_nul(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return any(_has_nul(item) for item in value)
    return False


def _cel_type(kind: str) -> Any:
    if kind == "array":
        return cel.Type.List(cel.Type.DYN)
    if kind in ("map", "record"):
        return cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
    return getattr(cel.Type, _CEL.get(kind, "DYN"))


def _plain(text: str) -> str:
    """The first line of the compiler's message, without its status code and place."""
    return "does not compile: " + text.splitlines()[0].removeprefix("INVALID_ARGUMENT: ").removeprefix("ERROR: ")
