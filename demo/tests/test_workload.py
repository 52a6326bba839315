"""What the demo publishes: exactly the mix that it promises, the same each time."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.errors import ContractBroken, Poison
from handrail_demo.plain import PlainContracts
from handrail_demo.workload import BROKEN, UNDECODABLE, Publication, Recipe, identity_of, workload
from hypothesis import given, settings
from hypothesis import strategies as st

FOLDER = Path(__file__).parents[2] / "contracts"
CONTRACT = "orders/order-accepted.v1"


def orders(count: int) -> list[dict[str, Any]]:
    return [
        {
            "order_id": str(number),
            "revision": 1,
            "customer_id": str(number % 97),
            "customer_name": f"Customer {number % 97}",
            "segment": "BUILDING",
            "account_balance_minor": number - 50,
            "total_minor": 100 + number,
            "currency": "EUR",
            "ordered_on": "1996-01-02",
        }
        for number in range(1, count + 1)
    ]


@pytest.fixture(scope="module")
def contracts() -> Contracts:
    return Contracts.load(FOLDER)


@pytest.fixture(scope="module")
def stream() -> list[Publication]:
    plain = PlainContracts(FOLDER)
    return workload(orders(3_000), lambda event: plain.encode(CONTRACT, event), Recipe())


def family(publication: Publication) -> str:
    return publication.kind.partition(":")[0]


def test_three_thousand_orders_give_the_promised_mix(stream: list[Publication]) -> None:
    families = Counter(family(one) for one in stream)
    assert len(stream) == 3_787
    assert families["good"] + families["broken"] == 3_600
    assert families["broken"] == 36
    assert families["copy"] + families["copy of broken"] == 180
    assert families["undecodable"] == 7
    identities = {one.identity for one in stream if one.identity is not None}
    assert len(identities) + sum(one.identity is None for one in stream) == 3_607


def test_a_tenth_of_the_orders_has_two_to_four_revisions(stream: list[Publication]) -> None:
    sizes = Counter(Counter(one.key for one in stream if family(one) in ("good", "broken")).values())
    assert sizes == {1: 2_700, 2: 100, 3: 100, 4: 100}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(contracts: Contracts) -> None:
    def made(seed: int) -> list[Publication]:
        return workload(orders(100), lambda event: contracts.encode(CONTRACT, event), Recipe(seed=seed))

    assert made(7) == made(7)
    assert made(7) != made(8)


def test_good_events_and_their_copies_pass_and_broken_ones_dont(
    stream: list[Publication], contracts: Contracts
) -> None:
    for one in stream:
        if family(one) == "undecodable":
            continue
        assert one.value is not None
        contract, event = contracts.decode(one.value, CONTRACT)
        if family(one) in ("good", "copy"):
            contracts.check(contract, event)
            assert identity_of(event) == one.identity
        else:
            with pytest.raises(ContractBroken) as raised:
                contracts.check(contract, event)
            assert raised.value.field in BROKEN[one.kind.partition(":")[2]]


def test_every_way_of_being_broken_breaks_the_contract(contracts: Contracts) -> None:
    made = workload(
        orders(40), lambda event: contracts.encode(CONTRACT, event), Recipe(revised=0, copied=0, broken=0.5)
    )
    kinds = {one.kind for one in made if family(one) == "broken"}
    assert kinds == {f"broken:{what}" for what in BROKEN}
    for one in made:
        contract, event = contracts.decode(one.value or b"", CONTRACT)
        if family(one) == "broken":
            with pytest.raises(ContractBroken):
                contracts.check(contract, event)


def test_no_undecodable_record_decodes(contracts: Contracts) -> None:
    recipe = Recipe(undecodable=4.0, broken=0, copied=0)
    made = workload(orders(100), lambda event: contracts.encode(CONTRACT, event), recipe)
    spoilt = [one for one in made if family(one) == "undecodable"]
    assert {one.kind for one in spoilt} == {f"undecodable:{what}" for what in UNDECODABLE}
    for one in spoilt:
        with pytest.raises((Poison, ContractBroken)):
            contracts.decode(one.value or b"", CONTRACT)


def test_a_broken_event_without_a_good_identity_is_named_by_its_coordinates(stream: list[Publication]) -> None:
    for one in stream:
        if family(one) == "broken":
            nameless = bool({"order_id", "revision"} & BROKEN[one.kind.partition(":")[2]].keys())
            assert (one.identity is None) is nameless


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5))
def test_whatever_the_mix_identities_stay_apart_and_in_order(
    count: int, seed: int, revised: float, copied: float, broken: float, undecodable: float
) -> None:
    made = workload(
        orders(count),
        lambda event: repr(sorted(event.items())).encode(),
        Recipe(seed, revised, copied, broken, undecodable),
    )
    values: dict[str, set[bytes | None]] = defaultdict(set)
    firsts: dict[str, list[int]] = defaultdict(list)
    seen: set[str] = set()
    for one in made:
        if one.identity is None:
            continue
        values[one.identity].add(one.value)
        is_copy = one.kind.startswith("copy")
        assert is_copy is (one.identity in seen), (
            "a copy comes after its original, and nothing else repeats an identity"
        )
        seen.add(one.identity)
        if not is_copy:
            order_id, _, revision = one.identity.rpartition("/")
            firsts[order_id].append(int(revision))
    assert all(len(bodies) == 1 for bodies in values.values())
    assert all(revisions == sorted(revisions) for revisions in firsts.values())


def test_copies_come_near_and_far(stream: list[Publication]) -> None:
    places: dict[str, int] = {}
    distances = []
    for number, one in enumerate(stream):
        if one.identity in places:
            distances.append(number - places[one.identity])
        elif one.identity is not None:
            places[one.identity] = number
    assert min(distances) < 20
    assert max(distances) > 1_000
