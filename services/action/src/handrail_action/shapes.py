"""What of a system's answer our contract knows. Systems add fields whenever they like; that breaks nothing here. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def only_known(schema: Any, value: Any) -> Any:
    """`value` without the record fields that the Avro `schema` does not have; wrong types are left to the codec."""
    return _known(schema, value, {})


def _known(schema: Any, value: Any, named: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return _of_union(schema, value, named)
    if isinstance(schema, str):
        return _known(named[schema], value, named) if schema in named else value
    if isinstance(schema["type"], (dict, list)):
        return _known(schema["type"], value, named)
    match schema["type"]:
        case "record":
            named[schema["name"]] = schema
            if isinstance(value, Mapping):
                fields = [field for field in schema["fields"] if field["name"] in value]
                return {field["name"]: _known(field["type"], value[field["name"]], named) for field in fields}
        case "array" if isinstance(value, list):
            return [_known(schema["items"], each, named) for each in value]
        case "map" if isinstance(value, Mapping):
            return {key: _known(schema["values"], each, named) for key, each in value.items()}
    return value


def _of_union(branches: list[Any], value: Any, named: dict[str, Any]) -> Any:
    """A union with one branch for the kind of value: `[null, record]` and the like. More is left as it is."""
    wanted = ("record", "map") if isinstance(value, Mapping) else ("array",) if isinstance(value, list) else ()
    fitting = [each for each in branches if _kind(each, named) in wanted]
    return _known(fitting[0], value, named) if len(fitting) == 1 else value


def _kind(schema: Any, named: dict[str, Any]) -> str:
    found = named.get(schema) if isinstance(schema, str) else schema
    return str(found["type"]) if isinstance(found, dict) else str(schema)
