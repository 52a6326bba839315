"""The rules of a contract's fields, `missing` and `valid`, compiled once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cel_expr_python import cel

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
    "bytes": "BYTES",
    "fixed": "BYTES",
}


class Environments:
    """CEL environments by the type of `value`: making one takes milliseconds, and there are few types."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def compile(self, field: Field) -> Any:
        """The field's `valid` as a CEL program. Raises ValueError, in words for the contract's author."""
        kind = _kind(field.type)
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

    __slots__ = ("_name", "_reject", "_valid")

    def __init__(self, contract: Contract, environments: Environments) -> None:
        """Raises ValueError naming the field when one of the rules does not compile."""
        self._name = contract.name
        self._reject = tuple((field.name, field.critical) for field in contract.fields if field.missing == "reject")
        valid = []
        for field in contract.fields:
            if field.valid is None:
                continue
            try:
                valid.append((field.name, field.valid, environments.compile(field).eval))
            except ValueError as error:
                raise ValueError(f"field {field.name}: valid {field.valid!r} {error}") from None
        self._valid = tuple(valid)

    def check(self, value: Mapping[str, Any]) -> None:
        """Raise ContractBroken for the first field that is missing or not valid."""
        for name, critical in self._reject:
            found = value.get(name)
            if found is None or (critical and found == ""):
                state = "empty" if found == "" else "missing"
                raise ContractBroken(f"{self._name}: {name} is {state} and must be given", field=name)
        for name, rule, evaluate in self._valid:
            found = value.get(name)
            if found is None:
                continue
            result = evaluate(data={"value": found}).value()
            if result is not True:
                why = "" if result is False else f" ({result})"
                raise ContractBroken(f"{self._name}: {name} is not valid: {rule}{why}", field=name)


def _kind(avro: AvroType) -> str:
    """One of the Avro kinds that `value` can have; "dyn" where several are possible."""
    if isinstance(avro, list):
        kinds = {_kind(branch) for branch in avro if branch != "null"}
        return kinds.pop() if len(kinds) == 1 else "dyn"
    if isinstance(avro, dict):
        return _kind(avro["type"])
    return str(avro)


def _cel_type(kind: str) -> Any:
    if kind == "array":
        return cel.Type.List(cel.Type.DYN)
    if kind in ("map", "record"):
        return cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
    return getattr(cel.Type, _CEL.get(kind, "DYN"))


def _plain(text: str) -> str:
    """The first line of the compiler's message, without its status code and place."""
    return "does not compile: " + text.splitlines()[0].removeprefix("INVALID_ARGUMENT: ").removeprefix("ERROR: ")
