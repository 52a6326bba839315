"""What fastavro writes without a word though it is not what the schema says, found before it is written.

It cuts 1.5 to 1 where an int is wanted, takes 2**40 for an int of 32 bits, and writes True for any text where a boolean
is wanted.
Unions are left out: fastavro validates the values of a union itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

Check: TypeAlias = Callable[[Any], str | None]
"""Says what is wrong with a value, or None. The text begins with the path inside the value, if there is one."""

_INT = 1 << 31
_LONG = 1 << 63


def compile_check(schema: Any, named: dict[str, Any]) -> Check | None:
    """The check of one type, or None when nothing of it needs checking. `named` holds the types known by name."""
    if isinstance(schema, str):
        return _SCALARS.get(schema) or (compile_check(named[schema], named) if schema in named else None)
    if isinstance(schema, list):
        return None
    kind = schema["type"]
    if kind == "record":
        return _record(schema, named)
    if kind in ("array", "map"):
        inner = compile_check(schema["items" if kind == "array" else "values"], named)
        if inner is None:
            return None
        return _array(inner) if kind == "array" else _map(inner)
    return compile_check(kind, named) if kind not in ("enum", "fixed") else None


def _int(value: Any) -> str | None:
    if type(value) is int and -_INT <= value < _INT:
        return None
    return f"must be an int of 32 bits, but is {_shown(value)}"


def _long(value: Any) -> str | None:
    if type(value) is int and -_LONG <= value < _LONG:
        return None
    return f"must be an int of 64 bits, but is {_shown(value)}"


def _number(value: Any) -> str | None:
    return None if type(value) is float or type(value) is int else f"must be a number, but is {_shown(value)}"


def _boolean(value: Any) -> str | None:
    return None if type(value) is bool else f"must be true or false, but is {_shown(value)}"


def _bytes(value: Any) -> str | None:
    return None if isinstance(value, bytes) else f"must be bytes, but is {_shown(value)}"


_SCALARS: dict[str, Check] = {
    "int": _int,
    "long": _long,
    "float": _number,
    "double": _number,
    "boolean": _boolean,
    "bytes": _bytes,
}


def _shown(value: Any) -> str:
    """A number as it is; anything else by its type only, since it may be personal data."""
    return repr(value)[:40] if type(value) in (int, float, bool) or value is None else f"a {type(value).__name__}"


def _record(schema: dict[str, Any], named: dict[str, Any]) -> Check | None:
    pairs = [(field["name"], compile_check(field["type"], named)) for field in schema["fields"]]
    checks = [(name, check) for name, check in pairs if check is not None]

    def check_record(value: Any) -> str | None:
        for name, check in checks:
            if name in value:
                wrong = check(value[name])
                if wrong is not None:
                    return joined(name, wrong)
        return None

    return check_record if checks else None


def _array(inner: Check) -> Check:
    def check_array(value: Any) -> str | None:
        for index, item in enumerate(value):
            wrong = inner(item)
            if wrong is not None:
                return joined(f"[{index}]", wrong)
        return None

    return check_array


def _map(inner: Check) -> Check:
    def check_map(value: Any) -> str | None:
        for key, item in value.items():
            wrong = inner(item)
            if wrong is not None:
                return joined(f"[{key!r}]", wrong)
        return None

    return check_map


def joined(place: str, wrong: str) -> str:
    """`place` put before a text that may begin with a path of its own."""
    return place + wrong if wrong.startswith(("[", ".")) else f"{place} {wrong}"
