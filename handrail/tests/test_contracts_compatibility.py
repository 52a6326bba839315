"""Which changes version N+1 may make."""

from __future__ import annotations

import io
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from handrail.contracts import Contract, Field
from handrail.contracts.compatibility import breaks, incompatibilities

Fields = list[dict[str, Any]]


def version(number: int, fields: Fields, subject: str = "shop/basket") -> Contract:
    described = tuple(
        Field(each["name"], each["type"], "d", critical=each.get("critical", False), missing=each.get("missing"))
        for each in fields
    )
    schema = {"type": "record", "name": "Basket", "namespace": f"shop.v{number}", "fields": fields}
    return Contract(f"{subject}.v{number}", number, schema, described, "f", "r")


def field(kind: Any, name: str = "a", **more: Any) -> Fields:
    return [{"name": name, "type": kind} | more]


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": list(symbols)} | more


def record(*fields: dict[str, Any], name: str = "R") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields)}


def fixed(size: int) -> dict[str, Any]:
    return {"type": "fixed", "name": "F", "size": size}


def array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


LONG = field("long")
N = {"name": "n", "type": "int"}
ALLOWED = [
    (LONG, LONG),
    (LONG, LONG + field("string", "b", default="")),
    (LONG, LONG + field(["null", "string"], "b", default=None)),
    (LONG + field("string", "b"), LONG),
    (field("int"), field("long")),
    (field("int"), field("double")),
    (field("long"), field("float")),
    (field("float"), field("double")),
    (field("string"), field("bytes")),
    (field("string"), field(["null", "string"])),
    (field(["null", "int"]), field(["null", "long"])),
    (field(["null", "int"]), field(["null", "int", "string"])),
    (field(enum("A")), field(enum("A", "B"))),
    (field(enum("A", "B")), field(enum("A", default="A"))),
    (field(fixed(4)), field(fixed(4))),
    (field(array("int")), field(array("long"))),
    (field({"type": "map", "values": "int"}), field({"type": "map", "values": "long"})),
    (field(record(N)), field(record(N, {"name": "m", "type": "int", "default": 0}))),
    (field(record(N)), field(["null", record(N)])),
    (field("long", critical=True, missing="reject"), field("long")),
]
REFUSED = [
    (LONG, LONG + field("string", "b"), "b is new and has no default"),
    (LONG, LONG + field("string", "b", default="", missing="reject"), 'b is new with "missing": "reject"'),
    (field("string", "b", critical=True) + LONG, LONG, "b is critical in v1 and is gone"),
    (field("long"), field("int"), "a was long and can't be read as int"),
    (field("double"), field("long"), "a was double and can't be read as long"),
    (field("string"), field("long"), "a was string and can't be read as long"),
    (field(["null", "string"]), field("string"), "a was null and can't be read as string"),
    (field(["null", "int", "string"]), field(["null", "int"]), "a was string, which [null, int] does not hold"),
    (field(enum("A", "B")), field(enum("A")), "a no longer has B"),
    (field(fixed(4)), field(fixed(5)), "a had 4 bytes and now has 5"),
    (field(array("long")), field(array("int")), "a[] was long and can't be read as int"),
    (field({"type": "map", "values": "long"}), field({"type": "map", "values": "string"}), "a[] was long"),
    (field(record(N)), field(record(N, {"name": "m", "type": "int"})), "a.m is new and has no default"),
    (field(record(N)), field(record(N, name="S")), "the type R is now called S"),
    (field(record(N)), field("long"), "a was R and can't be read as long"),
]
EXAMPLES: dict[str, Any] = {"int": 1, "long": 2, "float": 0.5, "double": 0.5, "string": "s", "null": None}


def example(kind: Any) -> Any:
    if isinstance(kind, list):
        return example(kind[-1])
    if isinstance(kind, str):
        return EXAMPLES[kind]
    match kind["type"]:
        case "enum":
            return kind["symbols"][-1]
        case "fixed":
            return b"x" * kind["size"]
        case "array":
            return [example(kind["items"])]
        case "map":
            return {"k": example(kind["values"])}
    return {each["name"]: example(each["type"]) for each in kind["fields"]}


@pytest.mark.parametrize(("old", "new"), ALLOWED)
def test_an_allowed_change_is_one_that_a_reader_survives(old: Fields, new: Fields) -> None:
    assert breaks(version(1, old), version(2, new)) == []
    before, after = version(1, old).schema, version(2, new).schema
    data = io.BytesIO()
    schemaless_writer(data, parse_schema(before), {each["name"]: example(each["type"]) for each in old})
    data.seek(0)
    read = schemaless_reader(data, parse_schema(before), parse_schema(after))
    assert set(read) == {each["name"] for each in new}  # type: ignore[arg-type]


@pytest.mark.parametrize(("old", "new", "text"), REFUSED)
def test_a_breaking_change_is_told_with_its_field(old: Fields, new: Fields, text: str) -> None:
    (told,) = breaks(version(1, old), version(2, new))
    assert text in told


def test_only_neighbours_of_one_subject_are_compared() -> None:
    other = version(2, field("string"), "shop/other")
    contracts = [version(3, LONG), other, version(1, LONG)]
    assert incompatibilities(contracts) == []
    (told,) = incompatibilities([*contracts, version(4, field("int"))])
    assert told.startswith("shop/basket.v4: a was long")


def test_a_version_after_a_gap_is_compared_with_the_one_before_it() -> None:
    assert incompatibilities([version(1, LONG), version(10, field("int")), version(2, LONG)]) == [
        "shop/basket.v10: a was long and can't be read as int: keep the type, or add a new field"
    ]
