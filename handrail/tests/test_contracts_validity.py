"""`missing` and `valid`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from handrail.contracts import Contract, Contracts, Field
from handrail.errors import ContractBroken, ContractFileError

ENUM = {"type": "enum", "name": "Colour", "symbols": ["RED", "GREEN"]}


def one_field(kind: Any, **rules: Any) -> Contracts:
    field = Field("it", kind, "d", **rules)
    schema = {"type": "record", "name": "T", "namespace": "t.v1", "fields": [{"name": "it", "type": kind}]}
    return Contracts([Contract("t/t.v1", 1 << 24, schema, (field,), "f", "r")])


def check(contracts: Contracts, value: dict[str, Any]) -> str | None:
    """What is told of the field `it`, or None."""
    try:
        contracts.check(contracts["t/t.v1"], value)
    except ContractBroken as error:
        return f"{error.field}: {error}"
    return None


@pytest.mark.parametrize(
    ("kind", "rule", "good", "bad"),
    [
        ("string", "size(value) > 1", "ab", "a"),
        ("string", "value.matches('^[A-Z]{3}$')", "EUR", "EURO"),
        ("int", "value >= 1", 1, 0),
        ("long", "value > 0 && value < 9000000000000000000", 2**62, -(2**63)),
        ("double", "value >= 0.5", 0.5, 0.25),
        ("float", "value >= 0.5", 0.5, float("nan")),
        ("boolean", "value", True, False),
        (ENUM, "value == 'RED'", "RED", "GREEN"),
        (["null", "long"], "value > 0", 1, 0),
        ({"type": "array", "items": "string"}, "value.all(each, each != '')", ["a"], ["a", ""]),
        ({"type": "map", "values": "long"}, "value.all(key, value[key] > 0)", {"a": 1}, {"a": 0}),
        ({"type": "record", "name": "R", "fields": [{"name": "n", "type": "int"}]}, "value.n > 0", {"n": 1}, {"n": 0}),
        (["int", "string"], "value != 0", 1, 0),
    ],
)
def test_a_rule_is_asked_with_the_value_of_its_type(kind: Any, rule: str, good: Any, bad: Any) -> None:
    contracts = one_field(kind, valid=rule)
    assert check(contracts, {"it": good}) is None
    assert f"it is not valid: {rule}" in str(check(contracts, {"it": bad}))


@pytest.mark.parametrize(
    ("kind", "rule", "text"),
    [
        ("string", "value > 3", "no matching overload"),
        ("int", "size(value) > 0", "no matching overload"),
        (["null", "string"], "value + 1", "no matching overload"),
        ("string", "valu == ''", "undeclared reference to 'valu'"),
        ("string", "size(value", "does not compile"),
        ("bytes", "size(value) > 0", "is on bytes"),
        ({"type": "array", "items": ["null", "bytes"]}, "size(value) > 0", "is on bytes"),
        ("string", "size(value)", "must give true or false, but gives"),
    ],
)
def test_a_rule_that_does_not_fit_its_field_is_refused_when_it_is_read(kind: Any, rule: str, text: str) -> None:
    with pytest.raises(ContractFileError) as caught:
        one_field(kind, valid=rule)
    assert str(caught.value).startswith("t/t.v1.avsc: field it: valid ")
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("string", "EUR\x00, and more"),
        (["null", "string"], "\x00"),
        ({"type": "array", "items": "string"}, ["a", "b\x00"]),
        ({"type": "map", "values": "long"}, {"a\x00": 1}),
        ({"type": "map", "values": "string"}, {"a": "\x00"}),
        ({"type": "record", "name": "R", "fields": [{"name": "t", "type": "string"}]}, {"t": "\x00"}),
    ],
)
def test_text_with_a_nul_is_never_valid_because_rules_see_it_cut(kind: Any, value: Any) -> None:
    assert "it is not valid: it holds the character U+0000" in str(check(one_field(kind), {"it": value}))


def test_a_type_that_is_used_by_name_is_looked_up() -> None:
    money = {"type": "record", "name": "Money", "fields": [{"name": "currency", "type": "string"}]}
    fields = [{"name": "first", "type": money}, {"name": "it", "type": {"type": "array", "items": "Money"}}]
    schema = {"type": "record", "name": "T", "namespace": "t.v1", "fields": fields}
    described = Field("it", fields[1]["type"], "d", valid="value.all(each, each.currency != '')")
    contracts = Contracts([Contract("t/t.v1", 1 << 24, schema, (described,), "f", "r")])
    assert check(contracts, {"it": [{"currency": "EUR"}]}) is None
    assert "it is not valid" in str(check(contracts, {"it": [{"currency": ""}]}))
    assert "U+0000" in str(check(contracts, {"it": [{"currency": "E\x00"}]}))


def test_bytes_may_hold_zeros() -> None:
    assert check(one_field("bytes"), {"it": b"a\x00b"}) is None


def test_null_is_not_asked() -> None:
    contracts = one_field(["null", "string"], valid="size(value) > 3")
    assert check(contracts, {"it": None}) is None
    assert check(contracts, {}) is None


def test_a_rule_that_fails_while_it_is_asked_refuses_the_value() -> None:
    contracts = one_field("int", valid="10 / value > 1")
    assert "it is not valid" in str(check(contracts, {"it": 0}))


@pytest.mark.parametrize(
    ("rules", "value", "refused"),
    [
        ({"missing": "reject"}, {}, "it is missing and must be given"),
        ({"missing": "reject"}, {"it": None}, "it is missing and must be given"),
        ({"missing": "reject"}, {"it": ""}, None),
        ({"missing": "reject", "critical": True}, {"it": ""}, "it is empty and must be given"),
        ({"missing": "review", "critical": True}, {"it": None}, None),
        ({"missing": "default"}, {}, None),
        ({}, {}, None),
    ],
)
def test_what_is_missing_is_treated_as_its_rule_says(
    rules: dict[str, Any], value: dict[str, Any], refused: str | None
) -> None:
    told = check(one_field(["null", "string"], **rules), value)
    assert (told is None) == (refused is None)
    assert (refused or "") in (told or "")


def test_every_rule_of_this_repository_compiles() -> None:
    assert Contracts.load(Path(__file__).parents[2] / "contracts").names()
