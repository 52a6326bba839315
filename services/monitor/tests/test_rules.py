"""Each rule at its limit: just below it says nothing, just above it says what, and it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from handrail_monitor.alerts import Board
from handrail_monitor.facts import Breaker, Gone
from handrail_monitor.limits import Limits
from handrail_monitor.rules import CRITICAL, RULES, WARNING, horizon_ms, judge
from handrail_monitor.watched import Watched
from handrail_monitor.words import WORDS
from monitor_world import (
    ACTION,
    DECISION,
    INGEST,
    LETTERS,
    SERVICES,
    T0,
    TRANSFORM,
    WATCHED,
    World,
    expect,
    letter,
    watched,
)

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


def calls_in_a_row(world: World, much: bool) -> None:
    world.seconds(5 if much else 4, {ACTION: {"calls.transient": 1}})


def calls_by_share(world: World, much: bool) -> None:
    for _ in range(10):
        world.second({ACTION: {"calls.good": 1}})
        world.second({ACTION: {"calls.unknown_outcome": 1 if much else 0}})


def calls_that_are_refused(world: World, much: bool) -> None:
    world.seconds(20, {ACTION: {"calls.config" if much else "calls.business": 1}})


def runs_by_share(world: World, much: bool) -> None:
    world.second({DECISION: {"runs.done": 96 if not much else 90}})
    world.second({DECISION: {"runs.failed": 4}})
    world.second({TRANSFORM: {"dead_letters": 6 if much else 0}})


def runs_in_a_row(world: World, much: bool) -> None:
    world.seconds(5 if much else 4, {DECISION: {"runs.failed": 1}})


def an_old_letter(world: World, much: bool) -> None:
    world.memory.hear([letter("a", world.now - HOUR - (1 if much else 0))])


def a_letter_of_config(world: World, much: bool) -> None:
    world.memory.hear([letter("a", world.now, stage=ACTION, failure_class="config" if much else "business")])


def a_breaker(world: World, much: bool) -> None:
    world.memory.hear([Breaker("billing", much, world.now)])


def keys_held_back(world: World, much: bool) -> None:
    world.gauges[TRANSFORM] = {"blocked": 3}
    world.seconds(302 if much else 301)


def a_stage_that_stands(world: World, much: bool) -> None:
    world.gauges[TRANSFORM] = {"lag": 7}
    world.second({TRANSFORM: {"consumed": 1}})
    world.seconds(31 if much else 30)


def a_stage_that_is_behind(world: World, much: bool) -> None:
    world.gauges[TRANSFORM] = {"lag": 700, "behind_ms": 60_001 if much else 60_000}
    world.second({TRANSFORM: {"consumed": 1}})


def a_stuck_run(world: World, much: bool) -> None:
    world.gauges[ACTION] = {"open": 2, "open_oldest_ms": 900_001 if much else 900_000}
    world.second({})


def a_paused_partition(world: World, much: bool) -> None:
    world.gauges[DECISION] = {"held": 1 if much else 0}
    world.second({})


def a_service_that_says_nothing(world: World, much: bool) -> None:
    world.mute.add(ACTION)
    world.seconds(16 if much else 15)


def a_service_that_starts_again_and_again(world: World, much: bool) -> None:
    for _ in range(4 if much else 2):
        world.seconds(2)
        world.restart(DECISION)
        world.second({})


def a_quiet_source(world: World, much: bool) -> None:
    world.seconds(61, {INGEST: {"consumed": 0}})
    world.seconds(2 if much else 3, {INGEST: {"consumed": 1}})


@pytest.mark.parametrize(
    ("bring", "name", "severity", "says"),
    [
        (calls_in_a_row, "calls-failing/billing", CRITICAL, "5 calls to billing failed"),
        (calls_by_share, "calls-failing/billing", WARNING, "10 of 20 calls to billing failed in 5 min: 10 unknown_outcome."),
        (calls_that_are_refused, "calls-failing/billing", CRITICAL, "20 calls"),
        (runs_by_share, "runs-failing/sales", WARNING, "10 of 100 runs of sales failed in 5 min; 5.0% are allowed."),
        (runs_in_a_row, "runs-failing/sales", CRITICAL, "5 runs of sales failed"),
        (an_old_letter, "oldest-dead-letter/sales", WARNING, "1 dead letters of sales are open, the oldest for 1 h."),
        (a_letter_of_config, f"misconfigured/{ACTION}", CRITICAL, "class config"),
        (a_breaker, "breaker-open/billing", CRITICAL, "breaker of billing"),
        (keys_held_back, f"blocked-keys/{TRANSFORM}", WARNING, "3 keys"),
        (a_stage_that_stands, f"lag/{TRANSFORM}", CRITICAL, "taken nothing for 31 s, and 7 records wait"),
        (a_stage_that_is_behind, f"lag/{TRANSFORM}", WARNING, "1 min behind: 700 records"),
        (a_stuck_run, f"stuck-runs/{ACTION}", WARNING, "2 runs are under way or wait in action.billing, the oldest for 15"),
        (a_paused_partition, f"paused/{DECISION}", CRITICAL, "paused 1 of its partitions"),
        (a_service_that_says_nothing, "process-silent/action", CRITICAL, "action has said nothing for 16 s: action.billing."),
        (a_service_that_starts_again_and_again, "restarts/decision", CRITICAL, "started 5 times in 5 min"),
        (a_quiet_source, "silence/sales", WARNING, "2 events of sales came in 1 min; at least 3 are expected."),
    ],
)  # fmt: skip
def test_a_rule_says_nothing_at_its_limit_and_speaks_just_above_it(
    bring: Callable[[World, bool], None], name: str, severity: str, says: str
) -> None:
    flows = watched(expect=expect(3, "1m")) if bring is a_quiet_source else WATCHED
    below, above = World(flows), World(flows)
    bring(below, False)
    bring(above, True)
    assert below.findings() == {}
    assert list(above.findings()) == [name]
    found = above.findings()[name]
    assert found.severity == severity
    assert says in found.what


def test_there_are_words_for_every_rule() -> None:
    tested = {case.values[1] if hasattr(case, "values") else case[1] for case in _cases()}
    assert {name.partition("/")[0] for name in tested} | {"kafka-away"} == set(WORDS)
    assert len(RULES) == len(WORDS) - 1


def _cases() -> list[tuple[object, str, str, str]]:
    mark = test_a_rule_says_nothing_at_its_limit_and_speaks_just_above_it.pytestmark[0]
    return list(mark.args[1])


def test_one_good_call_ends_a_row_of_failures() -> None:
    world = World(limits=Limits(window_ms=10_000))
    world.seconds(8, {ACTION: {"calls.transient": 2}})
    assert "calls-failing/billing" in world.findings()
    world.second({ACTION: {"calls.good": 1}})
    world.seconds(10)
    assert world.findings() == {}


def test_a_process_that_restarts_counts_on_and_its_history_is_not_counted_again() -> None:
    world = World(limits=Limits(restarts=9))
    world.second({ACTION: {"calls.good": 1_000}})
    world.restart(ACTION)
    world.seconds(5, {ACTION: {"calls.transient": 1}})
    assert "5 calls" in world.findings()["calls-failing/billing"].what
    late = World()
    late.counters[ACTION] = {"calls.transient": 999}
    late.started[ACTION] = T0 - HOUR  # monitor was not there when it counted these
    late.instance[ACTION] = 7
    late.second({})
    assert late.findings() == {}


def test_words_that_come_twice_or_late_count_once() -> None:
    world = World()
    world.second({ACTION: {"calls.transient": 3}})
    for _ in range(5):
        world.memory.hear([world.told(ACTION)])
    world.memory.hear([replace(world.told(ACTION), at=T0, counters={"calls.transient": 900})])
    assert world.findings() == {}


def test_a_process_whose_clock_is_set_back_is_neither_silent_nor_uncounted() -> None:
    world = World()
    world.mute.add(ACTION)
    for n in range(40):
        world.second({})
        world.counters[ACTION] = {"calls.transient": 6 if n > 30 else 0}
        world.memory.hear([replace(world.told(ACTION), at=world.now - HOUR)])
        assert list(world.findings()) == (["calls-failing/billing"] if n > 30 else [])
    world.seconds(16)
    assert "process-silent/action" in world.findings()


def test_words_that_are_all_read_again_count_once_and_are_no_clock_that_was_set_back() -> None:
    world = World()
    said = []
    for _ in range(30):
        world.second({ACTION: {"calls.transient": 0}})
        said.append(world.told(ACTION))
    world.memory.hear_again()
    world.memory.hear(said)
    assert world.memory.stages[ACTION].last_at == world.now
    world.mute.add(ACTION)
    world.seconds(16)
    assert list(world.findings()) == ["process-silent/action"]


def test_a_rolling_deploy_and_a_scale_up_are_no_restarts_again_and_again() -> None:
    world = World()
    last = dict.fromkeys(range(4), T0 - HOUR)
    for moment in range(80):
        if moment % 10 == 5 and moment < 40:  # one after the other is replaced
            del last[min(last)]
            last[max(last) + 1] = world.now
        if moment == 60:
            last |= dict.fromkeys(range(10, 16), world.now)
        if moment == 70:
            last = {name: at for name, at in last.items() if name < 10}  # and down again
        world.second({})
        for name, started in last.items():
            world.memory.hear([replace(world.told(ACTION), instance=str(name), started_at=started)])
    assert world.findings() == {}


def test_two_processes_of_a_stage_are_one_stage() -> None:
    world = World(limits=Limits(in_a_row=3))
    for n in range(3):
        world.second({})
        other = replace(world.told(ACTION), instance="other", started_at=T0, counters={"calls.transient": n + 1})
        world.memory.hear([other])
    assert "3 calls" in world.findings()["calls-failing/billing"].what


def test_a_letter_is_closed_by_its_state_by_its_removal_and_opened_by_its_next_generation() -> None:
    world = World()
    old = letter("a", T0 - 2 * HOUR)
    world.memory.hear([old])
    assert "oldest-dead-letter/sales" in world.findings()
    world.memory.hear([replace(old, open=False, at=world.now)])
    world.memory.hear([old])  # the topic of letters is read again, or later
    assert world.findings() == {}
    world.memory.hear([replace(old, generation=2)])
    assert "oldest-dead-letter/sales" in world.findings()
    world.memory.hear([Gone("a")])
    assert world.findings() == {}


def test_a_letter_that_is_replayed_stays_as_old_as_it_is() -> None:
    world = World()
    world.memory.hear([letter("a", T0 - 2 * HOUR), letter("a", world.now)])
    assert "2 h" in world.findings()["oldest-dead-letter/sales"].what


def test_a_flows_own_limits_count_for_it() -> None:
    world = World(watched(failed_rate=0.5, over_ms=MINUTE, oldest_letter_ms=3 * HOUR))
    runs_by_share(world, True)
    world.memory.hear([letter("a", world.now - 2 * HOUR)])
    assert world.findings() == {}
    world.memory.hear([letter("a", world.now - 4 * HOUR)])
    assert list(world.findings()) == ["oldest-dead-letter/sales"]


@pytest.mark.parametrize(
    ("hours", "at", "silent"),
    [
        (None, "03:00", True),
        ("08:00-20:00", "03:00", False),
        ("08:00-20:00", "08:29", False),  # the hour that is looked at began before
        ("08:00-20:00", "09:00", True),
        ("08:00-20:00", "20:00", True),
        ("08:00-20:00", "20:01", False),
        ("22:00-04:00", "23:30", True),
        ("22:00-04:00", "03:00", True),
        ("22:00-04:00", "05:00", False),
    ],
)
def test_silence_counts_only_within_the_hours_in_which_events_are_expected(
    hours: str | None, at: str, silent: bool
) -> None:
    midnight = T0 - T0 % 86_400_000
    hour, minute = map(int, at.split(":"))
    world = World(watched(expect=expect(1, "30m", hours)))
    world.now = midnight + 86_400_000 + hour * HOUR + minute * MINUTE - 60_000
    world.seconds(60)
    assert ("silence/sales" in world.findings()) == silent
    if silent:
        assert world.findings()["silence/sales"].severity == CRITICAL


def test_a_silence_is_not_over_because_the_day_is_and_it_is_one_until_events_come() -> None:
    world = World(watched(expect=expect(1, "30m", "08:00-20:00")))
    world.now = T0 - T0 % DAY + DAY + 19 * HOUR
    board = Board(world.watched, world.limits, world.now)
    told: list[str] = []

    def minutes(count: int, **counted: int) -> None:
        for _ in range(count):
            world.second({INGEST: counted}, ms=MINUTE)
            for one in board.step(judge(world.sight()), world.now, world.sight().judges):
                if one.rule == "silence":
                    told.append(one.state)

    minutes(50)
    assert told == ["FIRING"]
    minutes(13 * 60 - 50)  # to 08:00 of the next day: nobody expects anything, and nothing is over
    assert world.findings() == {}
    assert len(told) == 1
    minutes(45)  # still nothing: the same silence
    assert "silence/sales" in world.findings()
    assert told == ["FIRING"] * len(told)
    before = len(told)
    minutes(10, consumed=1)
    assert told[before:] == ["RESOLVED"]


def test_a_silence_is_over_when_events_come_at_night() -> None:
    world = World(watched(expect=expect(1, "30m", "08:00-20:00")))
    world.now = T0 - T0 % DAY + DAY + 23 * HOUR
    world.seconds(35, {INGEST: {}})
    for _ in range(35):
        world.second({}, ms=MINUTE)
    assert not world.sight().judges("silence", "sales")
    world.second({INGEST: {"consumed": 1}})
    assert world.sight().judges("silence", "sales")


def test_a_flow_is_not_called_silent_before_it_was_listened_to_for_so_long() -> None:
    world = World(watched(expect=expect(1, "1m")))
    world.seconds(50)
    assert world.findings() == {}
    world.seconds(15)
    assert "silence/sales" in world.findings()


def test_a_flow_without_expect_may_be_silent_unless_the_deployment_says_otherwise() -> None:
    for silence_ms, findings in ((0, []), (2 * MINUTE, ["silence/sales"])):
        world = World(limits=Limits(silence_ms=silence_ms))
        world.seconds(130)
        assert list(world.findings()) == findings


def test_a_silent_service_is_one_finding_and_what_was_wrong_before_is_not_over() -> None:
    world = World()
    world.gauges[DECISION] = {"held": 1, "lag": 5, "blocked": 2}
    world.second({ACTION: {"calls.transient": 6}})
    before = set(world.findings())
    assert before == {f"paused/{DECISION}", "calls-failing/billing"}
    world.mute |= set(SERVICES) - {LETTERS}
    world.seconds(400)
    silent = {f"process-silent/{one}" for one in ("action", "decision", "ingest", "transform")}
    assert (
        set(world.findings()) == before | silent
    )  # and nothing grows old that nobody has seen: no lag, no blocked keys


def test_a_stage_that_nobody_ever_heard_is_silent_too() -> None:
    world = World()
    world.watched = Watched(world.watched.flows, {**SERVICES, "action.crm": "action"})
    world.seconds(20)
    assert (
        world.findings()["process-silent/action"].what
        == "action has said nothing since monitor began to listen: action.crm."
    )


def test_the_longest_window_of_any_flow_is_remembered() -> None:
    assert horizon_ms(watched(), Limits()) == 315_000
    assert horizon_ms(watched(), Limits(blocked_ms=1, stalled_ms=HOUR)) == HOUR + 15_000
    assert horizon_ms(watched(over_ms=HOUR), Limits()) == HOUR
    assert horizon_ms(watched(expect=expect(1, "24h")), Limits()) == 24 * HOUR
