"""The verdict of a run: what makes it fail, and its last line."""

from __future__ import annotations

from dataclasses import replace

from handrail_chaos.checker import Verdict, Wrong
from handrail_chaos.report import Report

CLEAN = Verdict((), (), (), (), published=120, acknowledged=100, ended={"done": 100})
GOOD = Report(
    seed=7, events=100, acked=100, records=120, kills=80, rebalances=12, hit=74, places=74, missed=(), verdict=CLEAN
)


def test_the_last_line_has_the_agreed_form() -> None:
    assert GOOD.line() == (
        "CHAOS events=100 acked=100 kills=80 rebalances=12 faultpoints=74/74 lost=0 twice=0 torn=0 order=0 seed=7"
    )


def test_a_clean_run_holds() -> None:
    assert GOOD.holds
    assert GOOD.failures() == []


def test_each_check_alone_makes_it_fail() -> None:
    for check in ("lost", "twice", "torn", "order"):
        bad = replace(GOOD, verdict=replace(CLEAN, **{check: (Wrong("1/1", "because"),)}))
        assert bad.failures() == [f"{check}: 1"]
        assert f"{check}=1" in bad.line()
        assert bad.wrongs() == [(check, Wrong("1/1", "because"))]


def test_too_few_acknowledged_or_none_at_all_shows_nothing() -> None:
    assert replace(GOOD, acked=95).holds
    assert not replace(GOOD, acked=94).holds
    assert not replace(GOOD, events=0, acked=0).holds


def test_a_fault_point_that_was_never_hit_makes_it_fail() -> None:
    missed = replace(GOOD, hit=73, missed=("recovery.commands:in-revoke",))
    assert missed.failures() == ["never hit: recovery.commands:in-revoke"]


def test_the_report_for_programs_has_the_line_and_the_wrongs() -> None:
    bad = replace(GOOD, verdict=replace(CLEAN, lost=(Wrong("1/1", "ended nowhere"),)))
    told = bad.json()
    assert told["holds"] is False
    assert told["verdict"]["lost"] == ({"name": "1/1", "why": "ended nowhere"},)
    assert told["line"] == bad.line()
