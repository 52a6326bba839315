"""One condition is one alert: told once, again when it is worse or has lasted, and once when it is over."""

from __future__ import annotations

from dataclasses import replace

import pytest
from handrail.contracts import Contracts
from handrail_monitor.alerts import FIRING, RESOLVED, Alert, Board
from handrail_monitor.limits import Limits
from handrail_monitor.rules import CRITICAL, WARNING, Finding
from hypothesis import given
from hypothesis import strategies as st
from monitor_world import T0, WATCHED, alert, watched

LIMITS = Limits(clear_ms=5_000, remind_ms=60_000)
BAD = Finding("calls-failing", "billing", WARNING, "10 of 20 calls failed.", system="billing")


def only_kafka(rule: str, _subject: str) -> bool:
    return rule == "kafka-away"


def told(board: Board, *findings: Finding, at: int) -> list[tuple[str, str, int]]:
    return [(one.alert, one.state, one.sequence) for one in board.step(findings, T0 + at)]


def test_an_alert_is_told_once_while_it_lasts_and_once_when_it_is_over() -> None:
    board = Board(WATCHED, LIMITS, T0)
    assert told(board, BAD, at=0) == [("calls-failing/billing", FIRING, 1)]
    assert told(board, replace(BAD, what="11 of 22 calls failed."), at=1_000) == []
    assert told(board, at=2_000) == []
    assert told(board, at=6_000) == [("calls-failing/billing", RESOLVED, 2)]
    assert told(board, at=7_000) == []
    assert told(board, BAD, at=8_000) == [("calls-failing/billing", FIRING, 1)]  # a new episode


def test_a_condition_that_flickers_is_one_alert() -> None:
    board = Board(WATCHED, LIMITS, T0)
    found = [told(board, *([BAD] if second % 4 == 0 else []), at=second * 1_000) for second in range(20)]
    assert sum(map(len, found)) == 1


def test_it_is_told_again_when_it_becomes_worse_and_never_when_it_becomes_better() -> None:
    board = Board(WATCHED, LIMITS, T0)
    told(board, BAD, at=0)
    assert told(board, replace(BAD, severity=CRITICAL), at=1_000) == [("calls-failing/billing", FIRING, 2)]
    assert told(board, BAD, at=2_000) == []
    assert board.firing()[0].severity == CRITICAL


def test_what_lasts_is_told_again_after_a_while() -> None:
    board = Board(WATCHED, LIMITS, T0)
    found = [told(board, BAD, at=second * 1_000) for second in range(181)]
    assert [one[0][2] for one in found if one] == [1, 2, 3, 4]


def test_what_nobody_can_see_is_not_over() -> None:
    board = Board(WATCHED, LIMITS, T0)
    told(board, BAD, at=0)
    away = Finding("kafka-away", "kafka", CRITICAL, "away")
    assert [one.alert for one in board.step([away], T0 + 20_000, only_kafka)] == ["kafka-away/kafka"]
    assert board.step([away], T0 + 40_000, only_kafka) == []
    assert [(one.alert, one.state) for one in board.step([BAD], T0 + 46_000)] == [("kafka-away/kafka", RESOLVED)]


def test_a_monitor_that_starts_again_goes_on_with_what_fires() -> None:
    first = Board(WATCHED, LIMITS, T0)
    [fired] = first.step([BAD], T0)
    again = Board(WATCHED, LIMITS, T0 + 30_000, [fired, alert(alert="lag/x", rule="lag", subject="x", state=RESOLVED)])
    assert again.firing() == [fired]
    assert told(again, BAD, at=31_000) == []
    assert told(again, at=36_500) == [("calls-failing/billing", RESOLVED, 2)]


def test_an_alert_says_who_answers_what_to_do_and_where_it_is_written() -> None:
    [one] = Board(watched(to="slack:billing"), LIMITS, T0).step([BAD], T0)
    assert one.owner == "ops@example.com"
    assert one.runbook == "https://example.com/docs/operations/alerts.md#calls-failing"
    assert one.to == ("slack:billing",)
    assert "billing" in one.means
    assert "handrail dlq list" in one.todo
    assert WATCHED.runbook("runs-failing", "sales") == "https://example.com/flows/sales/v1/runbook.md"


def test_it_is_what_its_contract_says(contracts: Contracts) -> None:
    one = alert(to=("slack:billing",), told=("log",))
    contract, body = contracts.decode(contracts.encode("handrail/alert.v1", one.record()))
    assert contract.name == "handrail/alert.v1"
    assert Alert.from_record(body) == one


FINDINGS = st.lists(
    st.builds(
        Finding,
        st.sampled_from(["lag", "calls-failing", "silence"]),
        st.sampled_from(["a", "b"]),
        st.sampled_from([WARNING, CRITICAL]),
        st.sampled_from(["three of ten", "all of them"]),
    ),
    max_size=4,
    unique_by=lambda one: (one.rule, one.subject),
)


@given(st.lists(st.tuples(st.integers(0, 20_000), FINDINGS), max_size=30))
def test_whatever_comes_each_episode_is_told_in_order_begins_once_and_ends_at_most_once(
    story: list[tuple[int, list[Finding]]],
) -> None:
    board, now, heard = Board(WATCHED, LIMITS, T0), T0, dict[str, list[Alert]]()
    for passed, findings in story:
        now += passed
        for one in board.step(findings, now):
            heard.setdefault(f"{one.alert}@{one.since}", []).append(one)
        assert {f"{one.rule}/{one.subject}" for one in findings} <= {one.alert for one in board.firing()}
    open_now = {f"{one.alert}@{one.since}" for one in board.firing()}
    for episode, notices in heard.items():
        assert [one.sequence for one in notices] == list(range(1, len(notices) + 1))
        assert [one.state for one in notices[:-1]] == [FIRING] * (len(notices) - 1)
        assert (notices[-1].state == RESOLVED) == (episode not in open_now)
    for passed in (LIMITS.clear_ms, LIMITS.clear_ms):
        now += passed
        board.step([], now)
    assert board.firing() == []


@pytest.mark.parametrize("before", [True, False])
def test_the_end_says_what_it_was(before: bool) -> None:
    board = Board(WATCHED, LIMITS, T0, board_of() if before else ())
    if not before:
        board.step([BAD], T0)
    [over] = board.step([], T0 + 5_000)
    assert over.what == "It is over. It was: 10 of 20 calls failed."
    assert over.told == ()


def board_of() -> list[Alert]:
    return Board(WATCHED, LIMITS, T0).step([BAD], T0)
