"""Which field an encoder's error is about: asked only after the encoder has failed."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from fastavro import parse_schema
from fastavro.validation import validate


def locate(schema: dict[str, Any], value: Any) -> tuple[str | None, str] | None:
    """The path of the first field that breaks the schema and what is wrong, or None when none is found."""
    if not isinstance(value, Mapping):
        return None, f"must be an object with fields, but is a {type(value).__name__}"
    parsed: Any = parse_schema(schema)
    return _in_record(parsed, parsed["__named_schemas"], value, "")


def _in_record(
    record: dict[str, Any], named: dict[str, Any], value: Mapping[str, Any], path: str
) -> tuple[str, str] | None:
    names = [field["name"] for field in record["fields"]]
    for name in value:
        if name not in names:
            near = get_close_matches(str(name), names, 1)
            return path + str(name), f"{path}{name} is not in the contract" + (
                f"; did you mean {near[0]}?" if near else ""
            )
    for field in record["fields"]:
        name = path + field["name"]
        if field["name"] not in value:
            if "default" not in field:
                return name, f"{name} is missing"
            continue
        found = _in_type(field["type"], named, value[field["name"]], name)
        if found:
            return found
    return None


def _in_type(schema: Any, named: dict[str, Any], value: Any, path: str) -> tuple[str, str] | None:
    schema = named.get(schema, schema) if isinstance(schema, str) else schema
    if isinstance(schema, dict):
        kind = schema["type"]
        if kind == "record" and isinstance(value, Mapping):
            return _in_record(schema, named, value, path + ".")
        if kind == "array" and isinstance(value, (list, tuple)):
            inner = ((schema["items"], item, f"{path}[{index}]") for index, item in enumerate(value))
            return next((found for each in inner if (found := _in_type(each[0], named, each[1], each[2]))), None)
        if kind == "map" and isinstance(value, Mapping):
            pairs = ((schema["values"], item, f"{path}[{key!r}]") for key, item in value.items())
            return next((found for each in pairs if (found := _in_type(each[0], named, each[1], each[2]))), None)
    if _accepts(schema, named, value):
        return None
    return path, f"{path} must be {_words(schema)}, but is {_kind_of(value)}"


def _accepts(schema: Any, named: dict[str, Any], value: Any) -> bool:
    if isinstance(value, str) and not _encodes(value):
        return False
    try:
        return bool(validate(value, parse_schema(schema, named_schemas=dict(named)), raise_errors=False))
    except Exception:
        return False


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _words(schema: Any) -> str:
    if isinstance(schema, list):
        return " or ".join(_words(branch) for branch in schema)
    if isinstance(schema, dict):
        if schema["type"] == "enum":
            return "one of " + ", ".join(schema["symbols"])
        return str(schema.get("name", schema["type"]))
    return str(schema)


def _kind_of(value: Any) -> str:
    """The kind of a value, never the value itself: it may be personal data."""
    if value is None:
        return "null"
    if isinstance(value, str) and not _encodes(value):
        return "text that is not Unicode (a lone surrogate)"
    return f"a {type(value).__name__}"
