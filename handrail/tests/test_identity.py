"""Ids that repeat, and the partitioner that Java's clients have."""

from __future__ import annotations

import uuid

import pytest
from handrail.identity import coordinates, letter_id, mark, murmur2, output_id, partition_for, run_id
from hypothesis import given
from hypothesis import strategies as st

JAVA = {  # org.apache.kafka.common.utils.UtilsTest.testMurmur2
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


def signed(n: int) -> int:
    return n - (1 << 32) if n >= 1 << 31 else n


@pytest.mark.parametrize(("data", "expected"), JAVA.items())
def test_murmur2_is_that_of_kafkas_java_client(data: bytes, expected: int) -> None:
    assert signed(murmur2(data)) == expected


@pytest.mark.parametrize(("data", "expected"), JAVA.items())
@pytest.mark.parametrize("partitions", [1, 4, 7, 1000])
def test_a_route_goes_where_java_would_send_it(data: bytes, expected: int, partitions: int) -> None:
    assert partition_for(data.decode(), partitions) == (expected & 0x7FFFFFFF) % partitions


@given(st.text(), st.integers(1, 10_000))
def test_a_partition_is_always_one_that_there_is(route: str, partitions: int) -> None:
    assert 0 <= partition_for(route, partitions) < partitions


def test_a_runs_id_does_not_depend_on_the_order_of_its_fields_and_stays_as_it_is() -> None:
    one = run_id("order-to-invoice", {"order_id": "7", "revision": "1"})
    assert one == run_id("order-to-invoice", {"revision": "1", "order_id": "7"})
    assert uuid.UUID(one).version == 8
    assert uuid.UUID(one).variant == uuid.RFC_4122
    assert one == "a8dd1830-7a63-853c-b0a2-a12af0a621bd", "a changed id would start every run anew"


@given(
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_different_values_are_different_runs(a: dict[str, str], b: dict[str, str]) -> None:
    assert (run_id("f", a) == run_id("f", b)) == (a == b)


def test_neighbouring_parts_do_not_run_into_each_other() -> None:
    assert run_id("f", {"a": "bc"}) != run_id("f", {"ab": "c"})
    assert run_id("fa", {"b": "c"}) != run_id("f", {"ab": "c"})
    assert output_id("a", "b1", 1) != output_id("a", "b", 11)
    assert output_id("a", "s", 0) != output_id("a", "s", 1)
    assert len(mark("x")) == 16


def test_a_letter_is_the_same_for_a_second_failure_and_another_for_another_stage() -> None:
    event = coordinates("in", 0, 7)
    assert event == "in/0/7"
    assert letter_id("a", event) == letter_id("a", event)
    assert letter_id("a", event) != letter_id("b", event)
    assert uuid.UUID(letter_id("a", event)).version == 5
