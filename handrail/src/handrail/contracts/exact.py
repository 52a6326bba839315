"""What fastavro writes without a word though it is not what the schema says, found before it is written.

It cuts 1.5 to 1 where an int is wanted, takes 2**40 for an int of 32 bits, and writes True for any text where a boolean
is wanted. It writes an empty list as a map and the letters of a text as an array.
Unions are left out: fastavro validates the values of a union itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Wrong: TypeAlias = tuple[str, str]
"""The path inside the value, "" for the value itself, and what is wrong there."""
Check: TypeAlias = Callable[[Any], Wrong | None]

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
        return _array(inner) if kind == "array" else _map(inner)
    return compile_check(kind, named) if kind not in ("enum", "fixed") else None


def _int(value: Any) -> Wrong | None:
    if type(value) is int and -_INT <= value < _INT:
        return None
    return "", f"must be an int of 32 bits, but is {_shown(value)}"


def _long(value: Any) -> Wrong | None:
    if type(value) is int and -_LONG <= value < _LONG:
        return None
    return "", f"must be an int of 64 bits, but is {_shown(value)}"


def _number(value: Any) -> Wrong | None:
    return None if type(value) is float or type(value) is int else ("", f"must be a number, but is {_shown(value)}")


def _boolean(value: Any) -> Wrong | None:
    return None if type(value) is bool else ("", f"must be true or false, but is {_shown(value)}")


def _bytes(value: Any) -> Wrong | None:
    return None if isinstance(value, bytes) else ("", f"must be bytes, but is {_shown(value)}")


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

    def check_record(value: Any) -> Wrong | None:
        for name, check in checks:
            if name in value:
                wrong = check(value[name])
                if wrong is not None:
                    return _joined(name, wrong)
        return None

    return check_record if checks else None


def _array(inner: Check | None) -> Check:
    def check_array(value: Any) -> Wrong | None:
        if not isinstance(value, (list, tuple)):
            return "", f"must be an array, but is {_shown(value)}"
        if inner is not None:
            for index, item in enumerate(value):
                wrong = inner(item)
                if wrong is not None:
                    return _joined(f"[{index}]", wrong)
        return None

    return check_array


def _map(inner: Check | None) -> Check:
    def check_map(value: Any) -> Wrong | None:
        if not isinstance(value, Mapping):
            return "", f"must be a map, but is {_shown(value)}"
        if inner is not None:
            for key, item in value.items():
                wrong = inner(item)
                if wrong is not None:
                    return _joined(f"[{key!r}]", wrong)
        return None

    return check_map


def _joined(place: str, wrong: Wrong) -> Wrong:
    path, text = wrong
    return place + ("" if not path or path.startswith("[") else ".") + path, text
