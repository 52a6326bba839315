"""The codec: what goes in comes out, and no bytes hurt."""

from __future__ import annotations

import io
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import fastavro
import pytest
from handrail.contracts import MAX_BYTES, Contract, Contracts
from handrail.contracts.codec import KEEPING_BYTES
from handrail.contracts.jsonform import loads
from handrail.contracts.reading import read_folder
from handrail.errors import ContractBroken, ContractFileError, Poison
from hypothesis import given
from hypothesis import strategies as st

REPOSITORY = Path(__file__).parents[2]
ACCEPTED = "orders/order-accepted.v1"
CONTRACTS = Contracts.load(REPOSITORY / "contracts")
ORDER: dict[str, Any] = {
    "order_id": "4711",
    "revision": 1,
    "customer_id": "c-815",
    "customer_name": None,
    "segment": "BUILDING",
    "account_balance_minor": -2050,
    "total_minor": 129900,
    "currency": "EUR",
    "ordered_on": "2026-01-01",
}
GOOD = CONTRACTS.encode(ACCEPTED, ORDER)
EVERYTHING = [
    ("a_boolean", "boolean"),
    ("an_int", "int"),
    ("a_long", "long"),
    ("a_float", "float"),
    ("a_double", "double"),
    ("a_string", "string"),
    ("some_bytes", "bytes"),
    ("an_enum", {"type": "enum", "name": "Colour", "symbols": ["RED", "GREEN"]}),
    ("a_fixed", {"type": "fixed", "name": "Four", "size": 4}),
    ("an_optional", ["null", "long"]),
    ("an_array", {"type": "array", "items": "long"}),
    ("a_map", {"type": "map", "values": "string"}),
    (
        "records",
        {"type": "array", "items": {"type": "record", "name": "Inner", "fields": [{"name": "n", "type": "int"}]}},
    ),
]
LONG = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "a_boolean": st.booleans(),
    "an_int": st.integers(-(2**31), 2**31 - 1),
    "a_long": LONG,
    "a_float": st.floats(width=32, allow_nan=False),
    "a_double": st.floats(allow_nan=False),
    "a_string": TEXT,
    "some_bytes": st.binary(max_size=20),
    "an_enum": st.sampled_from(["RED", "GREEN"]),
    "a_fixed": st.binary(min_size=4, max_size=4),
    "an_optional": st.none() | LONG,
    "an_array": st.lists(LONG, max_size=5),
    "a_map": st.dictionaries(TEXT, TEXT, max_size=3),
    "records": st.lists(st.fixed_dictionaries({"n": st.integers(-(2**31), 2**31 - 1)}), max_size=3),
}


def contract_of(fields: list[tuple[str, Any]], name: str = "tests/sample.v1") -> Contract:
    """A contract that was never in a file."""
    schema = {"type": "record", "name": "Sample", "namespace": "tests.v1"}
    schema["fields"] = [{"name": field, "type": kind, "doc": "d"} for field, kind in fields]  # type: ignore[assignment]
    return Contract(name, 1 << 25, schema, (), "f", "r")


def contracts_of(fields: list[tuple[str, Any]], **more: Any) -> Contracts:
    return Contracts([contract_of(fields)], **more)


def message(body: bytes, schema_id: int = 1 << 25) -> bytes:
    return b"\x00" + schema_id.to_bytes(4, "big") + body


def zigzag(number: int) -> bytes:
    """A long as Avro writes it."""
    n = (number << 1) ^ (number >> 63)
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


WHOLE = contracts_of(EVERYTHING)


def test_a_message_is_a_zero_byte_the_id_and_the_avro_body() -> None:
    contract = CONTRACTS[ACCEPTED]
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(contract.schema), ORDER)
    assert message(body.getvalue(), contract.id) == GOOD


def test_what_is_encoded_decodes_to_the_same() -> None:
    assert CONTRACTS.decode(GOOD, ACCEPTED) == (CONTRACTS[ACCEPTED], ORDER)


@given(st.fixed_dictionaries(VALUES))
def test_every_type_comes_back_as_it_was(value: dict[str, Any]) -> None:
    assert WHOLE.decode(WHOLE.encode("tests/sample.v1", value))[1] == value


def test_a_field_that_is_left_out_gets_its_default() -> None:
    short = {name: value for name, value in ORDER.items() if name not in ("segment", "customer_name")}
    assert CONTRACTS.decode(CONTRACTS.encode(ACCEPTED, short))[1] == ORDER | {"segment": "unknown"}


@pytest.mark.parametrize(
    ("change", "field", "text"),
    [
        ({"order_id": None}, "order_id", "order_id must be string, but is null"),
        ({"order_id": 4711}, "order_id", "order_id must be string, but is a int"),
        ({"order_id": "\ud800"}, "order_id", "order_id must be string, but is text that is not Unicode"),
        ({"revision": 1.5}, "revision", "revision must be an int of 32 bits, but is 1.5"),
        ({"revision": True}, "revision", "revision must be an int of 32 bits, but is True"),
        ({"revision": 2**31}, "revision", "revision must be an int of 32 bits, but is 2147483648"),
        ({"total_minor": 2**63}, "total_minor", "total_minor must be an int of 64 bits"),
        ({"customer_name": 5}, "customer_name", "customer_name must be null or string, but is a int"),
        ({"customer_nam": "Ada"}, "customer_nam", "customer_nam is not in the contract; did you mean customer_name?"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(ContractBroken) as caught:
        CONTRACTS.encode(ACCEPTED, ORDER | change)
    assert (caught.value.field, text in str(caught.value)) == (field, True), str(caught.value)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ContractBroken, match="order_id is missing") as caught:
        CONTRACTS.encode(ACCEPTED, {name: value for name, value in ORDER.items() if name != "order_id"})
    assert caught.value.field == "order_id"


EXAMPLE: dict[str, Any] = {
    "a_boolean": True, "an_int": 1, "a_long": 1, "a_float": 0.5, "a_double": 0.5, "a_string": "", "some_bytes": b"",
    "an_enum": "RED", "a_fixed": b"1234", "an_optional": None, "an_array": [], "a_map": {}, "records": [{"n": 1}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"a_boolean": "no"}, "a_boolean"),
        ({"a_float": "1.5"}, "a_float"),
        ({"a_double": True}, "a_double"),
        ({"some_bytes": "text"}, "some_bytes"),
        ({"an_enum": "BLUE"}, "an_enum"),
        ({"a_fixed": b"12345"}, "a_fixed"),
        ({"an_array": [1, 2.5]}, "an_array[1]"),
        ({"an_array": 7}, "an_array"),
        ({"a_map": {"k": 1}}, "a_map['k']"),
        ({"a_map": []}, "a_map"),
        ({"records": [{"n": 1}, {"n": "x"}]}, "records[1].n"),
        ({"records": [{"n": 1}, {}]}, "records[1].n"),
        ({"records": [None]}, "records[0]"),
    ],
)
def test_a_wrong_part_of_a_field_is_named_with_its_path(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ContractBroken) as caught:
        WHOLE.encode("tests/sample.v1", EXAMPLE | change)
    assert caught.value.field == field


def test_an_error_does_not_tell_personal_data() -> None:
    with pytest.raises(ContractBroken) as caught:
        CONTRACTS.encode(ACCEPTED, ORDER | {"customer_name": ["Ada Byron"]})
    assert "Ada" not in str(caught.value)


def test_a_value_that_is_no_object_is_refused() -> None:
    with pytest.raises(ContractBroken, match="must be an object with fields"):
        CONTRACTS.encode(ACCEPTED, [ORDER])  # type: ignore[arg-type]


def test_a_message_that_would_be_too_large_is_not_encoded() -> None:
    small = contracts_of([("text", "string")], max_bytes=100)
    with pytest.raises(ContractBroken, match="bytes, at most 100 are allowed"):
        small.encode("tests/sample.v1", {"text": "x" * 100})


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x00\x00\x00\x01", b"{}", b"\x01" + GOOD[1:], b"\xde\xad\xbe\xef" * 9]
)
def test_bytes_without_a_head_are_poison(data: bytes) -> None:
    with pytest.raises(Poison, match="not in the Confluent wire format"):
        CONTRACTS.decode(data)


def test_a_message_over_the_size_limit_is_poison() -> None:
    with pytest.raises(Poison, match="at most 1048576 are decoded"):
        CONTRACTS.decode(GOOD + bytes(1 << 20))


def test_a_letter_about_a_message_that_is_too_large_can_be_written_and_read() -> None:
    sample = REPOSITORY / "contracts" / "samples" / "handrail" / "dead-letter.v1.poison.pass.json"
    letter = loads(sample.read_text()) | {"value": bytes(MAX_BYTES + 1)}
    data = CONTRACTS.encode("handrail/dead-letter.v1", letter)
    assert len(data) > MAX_BYTES
    assert CONTRACTS.decode(data)[1]["value"] == letter["value"]
    with pytest.raises(ContractBroken, match=f"at most {KEEPING_BYTES} are allowed"):
        CONTRACTS.encode("handrail/dead-letter.v1", letter | {"value": bytes(KEEPING_BYTES)})
    with pytest.raises(Poison, match=f"at most {KEEPING_BYTES} are decoded"):
        CONTRACTS.decode(data + bytes(KEEPING_BYTES))


def test_an_unknown_schema_id_breaks_the_contract() -> None:
    with pytest.raises(ContractBroken, match="schema id 7 is unknown"):
        CONTRACTS.decode(message(GOOD[5:], 7))


def test_another_contract_than_the_expected_one_is_told() -> None:
    with pytest.raises(ContractBroken, match=r"orders/order-accepted.v1 came where billing/invoice.v1 is expected"):
        CONTRACTS.decode(GOOD, "billing/invoice.v1")


@pytest.mark.parametrize("length", range(5, len(GOOD)))
def test_a_torn_message_is_poison(length: int) -> None:
    with pytest.raises(Poison):
        CONTRACTS.decode(GOOD[:length])


def test_bytes_after_the_body_are_poison() -> None:
    with pytest.raises(Poison, match="1 bytes are left over"):
        CONTRACTS.decode(GOOD + b"\x00")


def test_text_that_is_not_utf8_is_poison() -> None:
    with pytest.raises(Poison, match="UnicodeDecodeError"):
        contracts_of([("text", "string")]).decode(message(b"\x04\xff\xfe"))


@given(st.binary(max_size=200))
def test_whatever_the_bytes_are_they_decode_or_are_poison(body: bytes) -> None:
    try:
        _, value = WHOLE.decode(message(body))
    except Poison:
        return
    assert isinstance(value, dict)


@given(st.data())
def test_a_message_with_flipped_bytes_decodes_or_is_refused(data: st.DataObject) -> None:
    torn = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        torn[data.draw(st.integers(0, len(torn) - 1))] = data.draw(st.integers(0, 255))
    try:
        _, value = CONTRACTS.decode(bytes(torn))
    except (Poison, ContractBroken):
        return
    assert set(value) <= {
        field.name for contract in map(CONTRACTS.__getitem__, CONTRACTS.names()) for field in contract.fields
    }


BOMBS = [
    pytest.param(kind, count, id=f"{label}-{exponent}")
    for label, kind in [
        ("longs", {"type": "array", "items": "long"}),
        ("texts", {"type": "array", "items": "string"}),
        ("booleans", {"type": "array", "items": "boolean"}),
        ("doubles", {"type": "array", "items": "double"}),
        ("fixed", {"type": "array", "items": {"type": "fixed", "name": "One", "size": 1}}),
        ("maps", {"type": "map", "values": "long"}),
        ("bytes", "bytes"),
        ("string", "string"),
    ]
    for exponent, count in (
        (27, zigzag(1 << 27)),
        (33, zigzag(1 << 33)),
        (62, zigzag(1 << 62)),
        (-33, zigzag(-(1 << 33))),
    )
]


@pytest.mark.parametrize(("kind", "count"), BOMBS)
def test_a_few_bytes_never_become_many_items(kind: Any, count: bytes) -> None:
    contracts = contracts_of([("items", kind)])
    tracemalloc.start()
    begun = time.perf_counter()
    try:
        with pytest.raises(Poison):
            contracts.decode(message(count))
        with pytest.raises(Poison):
            contracts.decode(message(count + b"\x01\x01"))
    finally:
        took, (_, peak) = time.perf_counter() - begun, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert took < 0.5
    assert peak < 1_000_000


def test_items_are_never_more_than_bytes() -> None:
    contracts = contracts_of([("items", {"type": "array", "items": "long"})])
    size = 10_000
    _, value = contracts.decode(message(zigzag(size) + bytes(size) + b"\x00"))
    assert len(value["items"]) == size
    with pytest.raises(Poison):
        contracts.decode(message(zigzag(size + 2) + bytes(size) + b"\x00"))


def test_an_unknown_contract_is_told_with_its_nearest_name() -> None:
    with pytest.raises(
        ContractFileError, match=r"no contract orders/order-acepted.v1; did you mean orders/order-accepted.v1\?"
    ):
        CONTRACTS.encode("orders/order-acepted.v1", {})


def test_contracts_are_found_by_id_and_by_name() -> None:
    contract = CONTRACTS[ACCEPTED]
    assert CONTRACTS.by_id(contract.id) is contract
    assert CONTRACTS.by_id(1) is None
    assert ACCEPTED in CONTRACTS
    assert CONTRACTS.names() == sorted(each.name for each in read_folder(REPOSITORY / "contracts"))


def test_the_readme_shows_how_to_read_messages_without_handrail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    readme = (REPOSITORY / "contracts/README.md").read_text()
    code = readme.partition("```python\n")[2].partition("```")[0]
    assert "handrail" not in code
    found: dict[str, Any] = {}
    exec(code, found)
    for sample in sorted((REPOSITORY / "contracts/samples/orders").glob("*.pass.json")):
        name = "orders/" + sample.name.rsplit(".", 3)[0]
        data = CONTRACTS.encode(name, json.loads(sample.read_text()))
        assert found["decode"](data) == (name, CONTRACTS.decode(data)[1])
