"""The storm as data: a pure function of the seed, in which every kind has its turn."""

from __future__ import annotations

from collections import Counter

import pytest
from handrail_chaos.schedule import FAULTS_PER_SLICE, KINDS, NETWORK, Ground, Step, plan

BEGINS = {
    "stop": "go", "join": "leave", "cut": "mend", "toxic": "antidote", "broker-kill": "broker-start",
    "broker-stop": "broker-go", "misbehave": "behave", "down": "up", "poison": "pure",
}  # fmt: skip


def test_the_same_seed_gives_the_same_storm_and_another_seed_another() -> None:
    assert plan(7, Ground(150.0)) == plan(7, Ground(150.0))
    assert plan(7, Ground(150.0)).steps != plan(8, Ground(150.0)).steps


@pytest.mark.parametrize("seed", range(20))
def test_a_short_storm_has_every_kind_of_fault(seed: int) -> None:
    begun = {step.fault for step in plan(seed, Ground(200.0)).steps}
    assert len(KINDS.keys() - begun) <= 4  # a deck of 29 in about thirteen slices of two to four
    assert KINDS.keys() == {step.fault for step in plan(seed, Ground(400.0)).steps}


@pytest.mark.parametrize("seed", range(20))
def test_a_slice_has_two_to_four_different_faults_and_the_deck_goes_round(seed: int) -> None:
    storm = plan(seed, Ground(3_000.0))
    for each in storm.slices:
        assert FAULTS_PER_SLICE[0] <= len(each.faults) <= FAULTS_PER_SLICE[1]
        assert len(set(each.faults)) == len(each.faults)
        assert each.end - each.start <= 20.0
    counts = Counter(name for each in storm.slices for name in each.faults)
    assert counts.keys() == KINDS.keys()
    assert max(counts.values()) - min(counts.values()) <= 2


@pytest.mark.parametrize("seed", range(20))
def test_what_a_fault_begins_it_also_ends(seed: int) -> None:
    steps = plan(seed, Ground(150.0)).steps
    for step in steps:
        if step.verb in BEGINS:
            later = [one for one in steps if ends(one, step)]
            assert later, step


def ends(one: Step, begin: Step) -> bool:
    return (
        one.verb == BEGINS[begin.verb]
        and one.target == begin.target
        and one.fault == begin.fault
        and one.at >= begin.at
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_zombie_outlasts_both_timeouts_and_wakes_within_the_storm(seed: int) -> None:
    steps = [step for step in plan(seed, Ground(300.0)).steps if step.fault == "zombie"]
    stops = [step for step in steps if step.verb == "stop"]
    goes = [step for step in steps if step.verb == "go"]
    assert len(stops) == len(goes) > 0
    for stop, go in zip(stops, goes, strict=True):
        assert go.at - stop.at > 15.0
        assert go.at <= 300.0


def test_without_toxiproxy_nothing_of_the_network_is_planned() -> None:
    storm = plan(1, Ground(600.0, network=False))
    assert not {step.fault for step in storm.steps} & NETWORK.keys()


def test_three_brokers_are_all_hit() -> None:
    targets = {step.target for step in plan(1, Ground(1_200.0, brokers=3)).steps if step.target.startswith("kafka")}
    assert targets == {"kafka-1", "kafka-2", "kafka-3"}


def test_longer_slices_leave_more_rest_between_the_faults() -> None:
    storm = plan(5, Ground(3_000.0, slice_s=45.0))
    assert all(30.0 <= each.end - each.start <= 60.0 for each in storm.slices[:-1])
    assert len(plan(5, Ground(3_000.0)).slices) > 2.5 * len(storm.slices)


def test_the_plan_can_be_read() -> None:
    lines = list(plan(3, Ground(60.0)).lines())
    assert lines[0].startswith("seed 3: a storm of 60 s in ")
    assert all(len(line) < 200 for line in lines)
