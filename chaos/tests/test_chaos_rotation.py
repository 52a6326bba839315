"""Every fault point of every stage has its turn."""

from __future__ import annotations

from handrail.log import FAULT_POINTS
from handrail_chaos.rotation import CALLING, STAGES, Place, Rotation, places


def test_only_a_stage_that_makes_calls_has_the_points_of_a_call() -> None:
    assert {place.point for place in places(["action.billing"])} == set(FAULT_POINTS)
    assert {place.point for place in places(["recovery.letters"])} == set(FAULT_POINTS) - CALLING


def test_the_stages_are_those_that_the_services_run() -> None:
    everything = [place for stages in STAGES.values() for place in places(stages)]
    assert len(everything) == len(set(everything)) == 6 * (len(FAULT_POINTS) - len(CALLING)) + len(CALLING)


def test_a_round_goes_through_all_places_of_the_service_in_a_seeded_order() -> None:
    armed = [one_round(seed) for seed in (1, 1, 2)]
    assert set(armed[0]) == set(places(STAGES["recovery"]))
    assert armed[0] == armed[1] != armed[2]


def one_round(seed: int) -> list[Place]:
    rotation = Rotation("recovery", seed, 5.0)
    return [rotation.next(set()).place for _ in places(STAGES["recovery"])]


def test_what_was_armed_in_vain_comes_again_soon() -> None:
    rotation = Rotation("decision", 1, 5.0)
    first = rotation.next(set()).place
    rotation.again(first)
    assert first in [rotation.next(set()).place for _ in range(3)]


def test_in_the_next_round_those_that_were_never_hit_come_first() -> None:
    rotation = Rotation("transform", 1, 5.0)
    everything = [rotation.next(set()).place for _ in places(STAGES["transform"])]
    missed = everything[4]
    assert rotation.next(set(everything) - {missed}).place == missed


def test_turns_have_numbers_of_their_own_so_that_each_has_its_flag() -> None:
    rotation = Rotation("ingest", 1, 5.0)
    turns = [rotation.next(set()).turn for _ in range(50)]
    assert len(set(turns)) == 50


def test_a_point_that_is_passed_once_strikes_at_once_and_others_some_time_in_a_life() -> None:
    rotation = Rotation("decision", 1, 10.0)
    armings = [rotation.next(set()) for _ in range(200)]
    assert {each.nth for each in armings if each.place.point in ("during-restore", "in-revoke")} == {1}
    assert 10 < max(each.nth for each in armings) <= 40
