"""From a folder of .avsc files to contracts, with every problem told by file and field."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fastavro import parse_schema

from handrail.contracts.guard import dangers
from handrail.contracts.jsonform import no_repeats
from handrail.contracts.model import NAME, Contract, Field
from handrail.contracts.schema_id import fingerprint, rules_hash, schema_id
from handrail.errors import ContractFileError

_SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_RECORD_KEYS = ("type", "name", "namespace", "doc", "fields")
_FIELD_KEYS = ("name", "type", "doc", "default", "critical", "valid", "missing", "pii")
_MISSING = ("reject", "default", "review")


def read_folder(folder: Path) -> list[Contract]:
    """Every contract below `folder`, sorted by name. Raises ContractFileError with all problems of all files."""
    if not folder.is_dir():
        raise ContractFileError(f"{folder}: no such folder; give the folder of the .avsc files (HANDRAIL_CONTRACTS)")
    contracts: list[Contract] = []
    problems: list[str] = []
    for file in sorted(folder.rglob("*.avsc")):
        try:
            contracts.append(read_file(folder, file))
        except ContractFileError as error:
            problems.append(str(error))
    if problems:
        raise ContractFileError("\n".join(problems))
    return sorted(contracts, key=lambda contract: contract.name)


def read_file(folder: Path, file: Path) -> Contract:
    """One contract. Raises ContractFileError with every problem of the file, one a line."""
    name = file.relative_to(folder).as_posix().removesuffix(".avsc")
    if not NAME.fullmatch(name):
        raise ContractFileError(
            f"{file}: must stand at <domain>/<event>.v<N>.avsc below {folder}, in small letters, digits and dashes"
        )
    schema = _json(file)
    problems = _record_problems(name, schema)
    if not problems:
        for field in schema["fields"]:
            problems += [f"field {field.get('name', '?')}: {problem}" for problem in _field_problems(field)]
    if not problems:
        problems = _avro_problems(schema)
    if problems:
        raise ContractFileError("\n".join(f"{file}: {problem}" for problem in problems))
    mark = fingerprint(schema)
    return Contract(
        name=name,
        id=schema_id(mark),
        schema=schema,
        fields=tuple(_field(field) for field in schema["fields"]),
        fingerprint=mark,
        rules=rules_hash(schema),
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        schema = json.loads(file.read_text("utf-8"), object_pairs_hook=no_repeats)
    except json.JSONDecodeError as error:
        raise ContractFileError(f"{file}:{error.lineno}: is not JSON: {error.msg}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ContractFileError(f"{file}: can't be read: {error}") from None
    if not isinstance(schema, dict):
        raise ContractFileError(f"{file}: must be a JSON object: an Avro record")
    return schema


def _record_problems(name: str, schema: dict[str, Any]) -> list[str]:
    match = NAME.fullmatch(name)
    assert match is not None
    record = "".join(part.capitalize() for part in match["event"].split("-"))
    namespace = f"{match['domain'].replace('-', '_')}.v{match['version']}"
    problems = _unknown(schema, _RECORD_KEYS)
    for key, wanted in (("type", "record"), ("name", record), ("namespace", namespace)):
        if schema.get(key) != wanted:
            problems.append(f'write "{key}": "{wanted}" (it has {json.dumps(schema.get(key))})')
    if not _text(schema.get("doc")):
        problems.append('write a "doc": what the event says, in one sentence')
    fields = schema.get("fields")
    if not (isinstance(fields, list) and fields and all(isinstance(field, dict) for field in fields)):
        problems.append('write "fields": [ … ] with at least one field')
    return problems


def _field_problems(field: dict[str, Any]) -> list[str]:
    problems = _unknown(field, _FIELD_KEYS)
    if not _SNAKE.fullmatch(str(field.get("name", ""))):
        problems.append('write "name" in snake_case')
    if "type" not in field:
        problems.append('write a "type"')
    if not _text(field.get("doc")):
        problems.append('write a "doc": what it means, with its unit')
    for key in ("critical", "pii"):
        if not isinstance(field.get(key, False), bool):
            problems.append(f'"{key}" is true or false')
    if "valid" in field and not _text(field["valid"]):
        problems.append('"valid" is a CEL expression over value, as text')
    return problems + _missing_problems(field)


def _missing_problems(field: dict[str, Any]) -> list[str]:
    missing = field.get("missing")
    if "missing" in field and missing not in _MISSING:
        return [f'"missing" is one of {", ".join(_MISSING)}']
    if missing == "default" and "default" not in field:
        return ['"missing": "default" needs a "default"']
    if field.get("critical") and missing is None:
        return ['a critical field says what happens without it: write "missing": "reject" (or "review", "default")']
    return []


def _unknown(node: dict[str, Any], known: tuple[str, ...]) -> list[str]:
    problems = []
    for key in node:
        if key not in known:
            near = get_close_matches(key, known, 1)
            problems.append(f'"{key}" is not known here' + (f'; did you mean "{near[0]}"?' if near else ""))
    return problems


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _avro_problems(schema: dict[str, Any]) -> list[str]:
    logical = _logical_types(schema)
    if logical:
        return [f"logical types are not used, write the plain type and its unit in doc: {', '.join(logical)}"]
    try:
        parsed: Any = parse_schema(json.loads(json.dumps(schema)), _write_hint=False)
    except Exception as error:
        return [f"is not an Avro schema: {error}"]
    return dangers(parsed)


def _logical_types(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [str(node["logicalType"])] if "logicalType" in node else []
        return own + [found for key, value in node.items() if key != "default" for found in _logical_types(value)]
    if isinstance(node, list):
        return [found for item in node for found in _logical_types(item)]
    return []


def _field(field: dict[str, Any]) -> Field:
    return Field(
        name=field["name"],
        type=field["type"],
        doc=field["doc"],
        critical=field.get("critical", False),
        valid=field.get("valid"),
        missing=field.get("missing"),
        pii=field.get("pii", False),
    )
