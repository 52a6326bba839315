"""Reading, guarding and locking contract files."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from fastavro.schema import to_parsing_canonical_form
from handrail.contracts import Contracts, normalised_name
from handrail.contracts.guard import MAX_DEPTH
from handrail.contracts.lock import LOCK, collisions, differences, read_lock, write_lock
from handrail.contracts.model import Contract
from handrail.contracts.reading import read_folder
from handrail.contracts.schema_id import schema_id
from handrail.errors import ContractFileError
from hypothesis import given
from hypothesis import strategies as st

REPOSITORY = Path(__file__).parents[2]
NAME = "shop/basket-left.v1"


def field(name: str = "basket", kind: Any = "string", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "doc": "d"} | more


def schema(*fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    record = {"type": "record", "name": "BasketLeft", "namespace": "shop.v1", "doc": "d"}
    return record | {"fields": list(fields or (field(),))} | more


def write(folder: Path, content: Any, name: str = NAME) -> Path:
    file = folder / f"{name}.avsc"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def locked(folder: Path, *, force: bool = False) -> list[str]:
    return write_lock(folder, read_folder(folder), force=force)


def test_the_contracts_of_this_repository_load() -> None:
    contracts = Contracts.load(REPOSITORY / "contracts")
    assert {"orders/order-accepted.v1", "handrail/run-transition.v1"} <= set(contracts.names())


def test_a_contract_is_read_with_its_fields(tmp_path: Path) -> None:
    write(
        tmp_path,
        schema(field(critical=True, missing="reject", valid="size(value) > 0", pii=True), field("total", "long")),
    )
    (contract,) = read_folder(tmp_path)
    basket, total = contract.fields
    assert (contract.name, contract.subject, contract.version) == (NAME, "shop/basket-left", 1)
    assert contract.topic == "ingest.shop.basket-left"
    assert (basket.critical, basket.missing, basket.valid, basket.pii) == (True, "reject", "size(value) > 0", True)
    assert (total.type, total.critical, total.missing, total.valid, total.pii) == ("long", False, None, None, False)


WRONG_RECORDS = [
    ('{"type": "record"', ":1: is not JSON"),
    ("[]", "must be a JSON object"),
    ('{"type": "record", "type": "record"}', "'type' stands twice"),
    (schema(name="Basket"), 'write "name": "BasketLeft"'),
    (schema(namespace="shop"), 'write "namespace": "shop.v1"'),
    (schema(type="enum"), 'write "type": "record"'),
    (schema(doc=" "), 'write a "doc"'),
    (schema(fields=[]), "at least one field"),
    (schema(fields="x"), "at least one field"),
    (schema(field=[]), '"field" is not known here; did you mean "fields"?'),
]
WRONG_FIELDS = [
    (field("basketId"), 'field basketId: write "name" in snake_case'),
    ({"name": "a", "doc": "d"}, 'field a: write a "type"'),
    ({"name": "a", "type": "int"}, 'field a: write a "doc"'),
    (field(critcal=True), '"critcal" is not known here; did you mean "critical"?'),
    (field(critical="yes"), '"critical" is true or false'),
    (field(pii=1), '"pii" is true or false'),
    (field(valid=""), '"valid" is a CEL expression'),
    (field(missing="ignore"), '"missing" is one of reject, default, review'),
    (field(missing="default"), '"missing": "default" needs a "default"'),
    (field(critical=True), "a critical field says what happens without it"),
    (field(kind="strin"), "is not an Avro schema"),
    (field(kind="long", default="x"), "is not an Avro schema"),
    (field(kind={"type": "long", "logicalType": "timestamp-millis"}), "logical types are not used"),
]
DANGEROUS = [
    (field(kind={"type": "array", "items": "null"}), "the items of an array take no bytes"),
    (field(kind={"type": "map", "values": "null"}), "the values of an map take no bytes"),
    (field(kind={"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}), "take no bytes"),
    (field(kind={"type": "array", "items": {"type": "record", "name": "R", "fields": []}}), "take no bytes"),
    (
        field(kind={"type": "array", "items": {"type": "record", "name": "R", "fields": [
            {"name": "a", "type": "null"}, {"name": "b", "type": {"type": "record", "name": "S", "fields": []}}]}}),
        "take no bytes",
    ),
    (field(kind=["null", "BasketLeft"]), "shop.v1.BasketLeft contains itself"),
    (
        field(kind={"type": "record", "name": "R", "fields": [{"name": "a", "type": {"type": "array", "items": "R"}}]}),
        "shop.v1.R contains itself",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("content", "text"), WRONG_RECORDS)
def test_a_wrong_record_is_refused_with_its_file_and_what_to_write(tmp_path: Path, content: Any, text: str) -> None:
    file = write(tmp_path, content)
    with pytest.raises(ContractFileError) as caught:
        read_folder(tmp_path)
    assert str(caught.value).startswith(str(file))
    assert text in str(caught.value)


@pytest.mark.parametrize(("wrong", "text"), WRONG_FIELDS + DANGEROUS)
def test_a_wrong_field_is_refused_with_its_file_and_what_to_write(
    tmp_path: Path, wrong: dict[str, Any], text: str
) -> None:
    file = write(tmp_path, schema(wrong))
    with pytest.raises(ContractFileError) as caught:
        read_folder(tmp_path)
    assert str(caught.value).startswith(str(file))
    assert text in str(caught.value)


def nested(depth: int) -> Any:
    kind: Any = "long"
    for _ in range(depth):
        kind = {"type": "array", "items": kind}
    return kind


def test_types_may_be_nested_up_to_the_limit(tmp_path: Path) -> None:
    write(tmp_path, schema(field(kind=nested(MAX_DEPTH - 2))))
    assert len(read_folder(tmp_path)) == 1
    write(tmp_path, schema(field(kind=nested(MAX_DEPTH))))
    with pytest.raises(ContractFileError, match=f"nested more than {MAX_DEPTH} deep"):
        read_folder(tmp_path)


@pytest.mark.parametrize("depth", [300, 100_000])
def test_a_hostile_depth_is_refused_and_crashes_nothing(tmp_path: Path, depth: int) -> None:
    kind = '{"type":"array","items":' * depth + '"long"' + "}" * depth
    write(tmp_path, json.dumps(schema(field())).replace('"string"', kind))
    with pytest.raises(ContractFileError):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    "kind",
    [
        {"type": "array", "items": {"type": "record", "name": "R", "fields": [{"name": "a", "type": ["null", "int"]}]}},
        {"type": "map", "values": {"type": "enum", "name": "E", "symbols": ["A"]}},
        {"type": "array", "items": {"type": "array", "items": "string"}},
    ],
)
def test_items_that_take_a_byte_are_allowed(tmp_path: Path, kind: Any) -> None:
    write(tmp_path, schema(field(kind=kind)))
    assert len(read_folder(tmp_path)) == 1


def test_a_type_may_be_used_twice(tmp_path: Path) -> None:
    money = {"type": "record", "name": "Money", "fields": [{"name": "minor", "type": "long"}]}
    write(tmp_path, schema(field("a", money), field("b", {"type": "array", "items": "Money"})))
    assert len(read_folder(tmp_path)) == 1


@pytest.mark.parametrize("name", ["basket.v1", "shop/basket", "shop/Basket.v1", "shop/basket.v0", "a/b/c.v1"])
def test_a_file_at_a_wrong_place_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, schema(), name)
    with pytest.raises(ContractFileError, match=r"must stand at <domain>/<event>.v<N>.avsc"):
        read_folder(tmp_path)


def test_problems_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    write(tmp_path, "x", "shop/a.v1")
    write(tmp_path, "y", "shop/b.v1")
    with pytest.raises(ContractFileError) as caught:
        read_folder(tmp_path)
    assert len(str(caught.value).splitlines()) == 2


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ContractFileError, match="HANDRAIL_CONTRACTS"):
        Contracts.load(tmp_path / "contracts")


def test_without_a_lock_nothing_loads(tmp_path: Path) -> None:
    write(tmp_path, schema())
    with pytest.raises(ContractFileError, match=r"is not in contracts.lock: run `handrail contracts lock`"):
        Contracts.load(tmp_path)


def test_a_locked_contract_loads_with_the_id_of_the_lock(tmp_path: Path) -> None:
    write(tmp_path, schema())
    assert [change.partition(" with")[0] for change in locked(tmp_path)] == [f"{NAME}: added"]
    assert Contracts.load(tmp_path)[NAME].id == json.loads((tmp_path / LOCK).read_text())[NAME]["id"]


def test_locking_twice_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, schema())
    locked(tmp_path)
    before = (tmp_path / LOCK).read_bytes()
    assert locked(tmp_path) == []
    assert (tmp_path / LOCK).read_bytes() == before


def test_the_lock_is_sorted_with_one_line_a_contract(tmp_path: Path) -> None:
    write(tmp_path, schema())
    write(tmp_path, schema(name="Added"), "shop/added.v1")
    locked(tmp_path)
    lines = (tmp_path / LOCK).read_text().splitlines()
    assert [line.split('"')[1] for line in lines[1:-1]] == ["shop/added.v1", NAME]


def test_a_released_schema_that_changed_is_refused(tmp_path: Path) -> None:
    write(tmp_path, schema())
    locked(tmp_path)
    write(tmp_path, schema(field(), field("more", "long")))
    for attempt in (lambda: locked(tmp_path), lambda: Contracts.load(tmp_path)):
        with pytest.raises(ContractFileError, match=r"a released schema never changes.*basket-left.v2.avsc"):
            attempt()
    (change,) = locked(tmp_path, force=True)
    assert "schema changed" in change
    assert Contracts.load(tmp_path).names() == [NAME]


def test_a_released_contract_that_is_gone_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, schema())
    locked(tmp_path)
    file.unlink()
    with pytest.raises(ContractFileError, match="is gone but stands in"):
        locked(tmp_path)
    assert locked(tmp_path, force=True) == [f"{NAME}: removed"]


@pytest.mark.parametrize(
    "change", [{"valid": "size(value) > 1"}, {"default": "x"}, {"pii": True}, {"missing": "reject"}]
)
def test_changed_rules_need_a_new_lock_but_keep_the_id(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path, schema())
    locked(tmp_path)
    before = read_lock(tmp_path)[NAME].id
    write(tmp_path, schema(field(**change)))
    with pytest.raises(ContractFileError, match=r"rules or defaults differ.*run `handrail contracts lock`"):
        Contracts.load(tmp_path)
    assert locked(tmp_path) == [f"{NAME}: rules or defaults changed"]
    assert Contracts.load(tmp_path)[NAME].id == before


def test_a_changed_text_needs_nothing(tmp_path: Path) -> None:
    write(tmp_path, schema())
    locked(tmp_path)
    write(tmp_path, schema(field() | {"doc": "better words"}, doc="Better words."))
    assert differences(tmp_path, read_folder(tmp_path)) == []


@pytest.mark.parametrize("content", ["", "[]", "{", '{"shop/basket-left.v1": {"id": 1}}', '{"shop/basket-left.v1": 5}'])
def test_a_broken_lock_is_told(tmp_path: Path, content: str) -> None:
    write(tmp_path, schema())
    (tmp_path / LOCK).write_text(content)
    with pytest.raises(ContractFileError, match=r"contracts.lock: can't be read"):
        Contracts.load(tmp_path)


def test_two_contracts_with_one_id_are_refused(tmp_path: Path) -> None:
    one, two = (Contract(f"shop/{event}.v1", 1 << 24, {}, (), event, "r") for event in ("a", "b"))
    assert "has the same id 16777216 as shop/a.v1" in collisions([one, two])[0]
    with pytest.raises(ContractFileError, match="has the same id"):
        write_lock(tmp_path, [one, two], force=True)
    assert not (tmp_path / LOCK).exists()


def test_an_id_is_the_hash_of_the_canonical_form() -> None:
    for contract in read_folder(REPOSITORY / "contracts"):
        digest = sha256(to_parsing_canonical_form(contract.schema).encode())
        assert contract.fingerprint == digest.hexdigest()
        assert contract.id & ((1 << 29) - 1) == int.from_bytes(digest.digest()[:4], "big") & ((1 << 29) - 1)


@given(st.binary(min_size=32, max_size=32))
def test_an_id_has_at_most_30_bits_and_is_at_least_two_to_the_24(digest: bytes) -> None:
    assert 1 << 24 <= schema_id(digest.hex()) < 1 << 30


def test_ids_never_change_by_a_change_of_this_code() -> None:
    assert Contracts.load(REPOSITORY / "contracts")["orders/order-accepted.v1"].id == 437672205


def test_a_dotted_name_is_normalised() -> None:
    assert normalised_name("orders.order-accepted.v1") == "orders/order-accepted.v1"
    assert normalised_name("orders/order-accepted.v1") == "orders/order-accepted.v1"
    assert normalised_name("orders") == "orders"
