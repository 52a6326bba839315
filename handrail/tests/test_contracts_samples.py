"""Every sample of this repository, found by file name; and that a wrong sample is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.contracts.jsonform import dumps, loads
from handrail.contracts.samples import Sample, find_samples, problem_of, without_pass
from handrail.errors import ContractFileError

FOLDER = Path(__file__).parents[2] / "contracts"
CONTRACTS = Contracts.load(FOLDER)
SAMPLES = find_samples(FOLDER)
INVOICED = "orders/order-invoiced.v1"
GOOD: dict[str, Any] = {"order_id": "1", "revision": 1, "total_minor": 1, "currency": "EUR"}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.file.relative_to(FOLDER / "samples").as_posix())
def test_a_sample_is_taken_or_refused_as_its_name_says(sample: Sample) -> None:
    assert problem_of(CONTRACTS, sample) is None


def test_every_contract_has_a_sample_that_passes() -> None:
    assert without_pass(CONTRACTS, SAMPLES) == []


def test_every_public_contract_has_a_sample_that_fails() -> None:
    failing = {sample.contract for sample in SAMPLES if sample.why}
    assert {name for name in CONTRACTS.names() if not name.startswith("handrail/")} <= failing


def test_a_contract_without_a_sample_is_told() -> None:
    rest = [sample for sample in SAMPLES if sample.contract != INVOICED]
    assert without_pass(CONTRACTS, rest) == [
        f"{INVOICED}: has no sample; write samples/{INVOICED}.<case>.pass.json",
    ]


@pytest.mark.parametrize(
    ("value", "why", "text"),
    [
        (
            GOOD | {"revision": 0},
            None,
            "must be taken, but is refused: orders/order-invoiced.v1: revision is not valid",
        ),
        (GOOD, "revision", "must be refused because of 'revision', but is taken"),
        (GOOD | {"revision": 0}, "currency", "is refused for another reason than 'currency'"),
    ],
)
def test_a_sample_that_does_not_behave_is_told(value: Any, why: str | None, text: str) -> None:
    assert text in str(problem_of(CONTRACTS, Sample(Path("s.json"), INVOICED, "case", value, why)))


def test_a_sample_of_no_contract_is_told() -> None:
    told = problem_of(CONTRACTS, Sample(Path("s.json"), "orders/order-invoicd.v1", "case", GOOD, None))
    assert told == "s.json: no contract orders/order-invoicd.v1; did you mean orders/order-invoiced.v1?"


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("orders/order-invoiced.v1.json", "{}", "is not called"),
        ("orders/order-invoiced.v1.case.maybe.json", "{}", "is not called"),
        ("orders/order-invoiced.v1.case.pass.json", "{", "Expecting"),
        ("orders/order-invoiced.v1.case.fail.json", json.dumps(GOOD), 'a fail sample is {"value"'),
        ("orders/order-invoiced.v1.case.fail.json", '{"value": 1, "why": ""}', '"why" must be'),
    ],
)
def test_a_sample_file_that_is_wrong_is_told(tmp_path: Path, name: str, content: str, text: str) -> None:
    file = tmp_path / "samples" / name
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(ContractFileError) as caught:
        find_samples(tmp_path)
    assert str(caught.value).startswith(str(file))
    assert text in str(caught.value)


def test_bytes_are_written_as_hex() -> None:
    value = {"a": b"\x00\xff", "b": [b""], "c": "text"}
    assert dumps(value) == '{"a": {"$bytes": "00ff"}, "b": [{"$bytes": ""}], "c": "text"}'
    assert loads(dumps(value)) == value


@pytest.mark.parametrize("text", ['{"$bytes": "xy"}', "NaN", '{"a": Infinity}', '{"a": 1, "a": 2}', "[" * 100_000])
def test_what_is_not_plain_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        loads(text)
