"""Which call gets which fault: the pure part."""

from __future__ import annotations

import pytest
from handrail_sandbox.faults import Attempt, Kind, Ordered, Rule, choose, draw
from hypothesis import given
from hypothesis import strategies as st

seeds = st.integers(0, 2**31)
names = st.text(max_size=20)


def attempt(
    reference: str = "1/1", number: int = 1, operation: str = "create-invoice", method: str = "POST"
) -> Attempt:
    return Attempt(method, operation, reference, number)


def on_order(*rules: Rule, spent: int = 0) -> list[Ordered]:
    return [Ordered(number, rule, spent) for number, rule in enumerate(rules, 1)]


@given(seeds, names, st.integers(1, 50))
def test_a_lot_is_in_its_range_and_always_the_same(seed: int, reference: str, number: int) -> None:
    rule = Rule(kind=Kind.ERROR_500, seed=seed)
    lot = draw(rule, attempt(reference, number))
    assert 0 <= lot < 1
    assert lot == draw(rule, attempt(reference, number))


@given(seeds, names, st.integers(1, 50), st.integers(1, 50), names)
def test_a_sticky_lot_is_the_same_at_each_attempt(
    seed: int, reference: str, one: int, other: int, operation: str
) -> None:
    rule = Rule(kind=Kind.ERROR_500, seed=seed, sticky="reference")
    assert draw(rule, attempt(reference, one)) == draw(rule, attempt(reference, other, operation))


@given(seeds, names)
def test_everything_is_hit_by_a_whole_share_and_nothing_by_none(seed: int, reference: str) -> None:
    assert choose(on_order(Rule(kind=Kind.HANG, share=1.0, seed=seed)), attempt(reference)) is not None
    assert choose(on_order(Rule(kind=Kind.HANG, share=0.0, seed=seed)), attempt(reference)) is None


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_about_the_share_is_hit(share: float) -> None:
    ordered = on_order(Rule(kind=Kind.ERROR_503, share=share, seed=3))
    hit = sum(choose(ordered, attempt(f"{number}/1")) is not None for number in range(10_000))
    assert hit == pytest.approx(10_000 * share, rel=0.15)


def test_two_kinds_with_one_seed_choose_apart() -> None:
    rules = on_order(Rule(kind=Kind.ERROR_503, share=0.1), Rule(kind=Kind.LOSE_REPLY, share=0.02))
    hits = [choose(rules, attempt(f"{number}/1")) for number in range(10_000)]
    lost = sum(hit is not None and hit.rule.kind is Kind.LOSE_REPLY for hit in hits)
    assert 130 < lost < 230


def test_a_reference_that_failed_may_pass_at_its_next_attempt() -> None:
    ordered = on_order(Rule(kind=Kind.ERROR_503, share=0.5))
    met = [choose(ordered, attempt(number=number)) is not None for number in range(1, 30)]
    assert True in met
    assert False in met


def test_the_first_rule_that_hits_wins() -> None:
    ordered = on_order(Rule(kind=Kind.SLOW), Rule(kind=Kind.HANG))
    chosen = choose(ordered, attempt())
    assert chosen is not None
    assert chosen.rule.kind is Kind.SLOW


def test_an_exhausted_rule_gives_way_to_the_next() -> None:
    ordered = [Ordered(1, Rule(kind=Kind.SLOW, times=3), 3), Ordered(2, Rule(kind=Kind.HANG), 9)]
    assert choose(ordered, attempt()) == ordered[1]


@pytest.mark.parametrize(
    ("named", "method", "hit"),
    [
        (None, "POST", True),
        (None, "PUT", True),
        (None, "GET", False),
        ("GET", "GET", True),
        ("GET", "POST", False),
        ("PUT", "POST", False),
        ("any", "GET", True),
        ("any", "POST", True),
    ],
)
def test_a_rule_looks_at_its_method(named, method: str, hit: bool) -> None:
    assert (choose(on_order(Rule(kind=Kind.ERROR_500, method=named)), attempt(method=method)) is not None) is hit
