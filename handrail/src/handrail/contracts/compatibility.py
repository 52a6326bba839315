"""May version N+1 follow version N? Yes when a reader of the new one understands every message of the old one.

The rules are those of the Avro specification, "Schema Resolution", and two of ours: a critical field stays, and a field
that must be given was there before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise
from typing import Any

from fastavro import parse_schema

from handrail.contracts.model import Contract

_PROMOTIONS = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}
_COMPLEX = frozenset({"record", "enum", "fixed", "array", "map"})
Names = dict[str, Any]


def incompatibilities(contracts: Iterable[Contract]) -> list[str]:
    """Every break between neighbouring versions of the same subject, in words."""
    problems: list[str] = []
    ordered = sorted(contracts, key=lambda each: (each.subject, each.version))
    for _, versions in groupby(ordered, key=lambda each: each.subject):
        for old, new in pairwise(versions):
            problems += [f"{new.name}: {text}" for text in breaks(old, new)]
    return problems


def breaks(old: Contract, new: Contract) -> list[str]:
    """Why a reader of `new` does not understand every message of `old`; empty when it does."""
    old_names, old_record = _resolved(old)
    new_names, new_record = _resolved(new)
    found = list(_record(old_record, new_record, old_names, new_names, ""))
    had = {field.name: field for field in old.fields}
    has = {field.name: field for field in new.fields}
    for name, field in had.items():
        if field.critical and name not in has:
            found.append(f"{name} is critical in v{old.version} and is gone: keep it, or make a new event")
    for name, field in has.items():
        if field.missing == "reject" and name not in had:
            found.append(f'{name} is new with "missing": "reject": every message of v{old.version} would be refused')
    return found


def _resolved(contract: Contract) -> tuple[Names, Any]:
    parsed: Any = parse_schema(contract.schema)
    return parsed["__named_schemas"], parsed


def _record(old: Any, new: Any, old_names: Names, new_names: Names, path: str) -> Iterator[str]:
    had = {field["name"]: field for field in old["fields"]}
    for field in new["fields"]:
        name = path + field["name"]
        before = had.get(field["name"])
        if before is None:
            if "default" not in field:
                yield f"{name} is new and has no default: give it one"
            continue
        yield from _type(before["type"], field["type"], old_names, new_names, name)


def _type(old: Any, new: Any, old_names: Names, new_names: Names, path: str) -> Iterator[str]:
    """What of the old type the new one does not understand."""
    old, new = _looked_up(old, old_names), _looked_up(new, new_names)
    if isinstance(old, list):
        for branch in old:
            yield from _type(branch, new, old_names, new_names, path)
    elif isinstance(new, list):
        if all(list(_type(old, branch, old_names, new_names, path)) for branch in new):
            yield f"{path} was {_words(old)}, which {_words(new)} does not hold: keep it in the union"
    elif _kind(old) != _kind(new):
        if _kind(new) not in _PROMOTIONS.get(_kind(old), ()):
            yield f"{path} was {_words(old)} and can't be read as {_words(new)}: keep the type, or add a new field"
    elif _kind(old) in _COMPLEX:
        yield from _complex(old, new, old_names, new_names, path)


def _complex(old: Any, new: Any, old_names: Names, new_names: Names, path: str) -> Iterator[str]:
    kind = _kind(old)
    if kind in ("array", "map"):
        part = "items" if kind == "array" else "values"
        yield from _type(old[part], new[part], old_names, new_names, path + "[]")
        return
    if _short(old) != _short(new):
        yield f"{path}: the type {_short(old)} is now called {_short(new)}: keep the name"
    elif kind == "record":
        yield from _record(old, new, old_names, new_names, path + ".")
    elif kind == "enum":
        gone = [symbol for symbol in old["symbols"] if symbol not in new["symbols"]]
        if gone and "default" not in new:
            yield f"{path} no longer has {', '.join(gone)}: keep them, or give the enum a default"
    elif old["size"] != new["size"]:
        yield f"{path} had {old['size']} bytes and now has {new['size']}: keep the size"


def _looked_up(schema: Any, names: Names) -> Any:
    return names.get(schema, schema) if isinstance(schema, str) else schema


def _kind(schema: Any) -> str:
    return schema["type"] if isinstance(schema, dict) else str(schema)


def _short(schema: Any) -> str:
    return str(schema["name"]).rpartition(".")[2]


def _words(schema: Any) -> str:
    if isinstance(schema, list):
        return "[" + ", ".join(_words(branch) for branch in schema) + "]"
    return _short(schema) if isinstance(schema, dict) and "name" in schema else _kind(schema)
