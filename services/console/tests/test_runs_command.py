"""`handrail runs`: finding a run, and its story in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from handrail.errors import StateError
from handrail_console.commands.runs import app
from handrail_console.ledger import Ledger

RUN = "0a1b2c3d-0000-8000-8000-000000000001"
OTHER = "0a1b2c3d-0000-8000-8000-000000000002"
TASK = "3f2a91c0-0000-8000-8000-000000000001"
LETTER = "9c1d2e3f-0000-5000-8000-000000000001"


def good_run(records: Any) -> list[Any]:
    at = records.transition(1, "prepared", "prepared")
    start = at.timestamp
    return [
        at,
        records.transition(2, "decided", "decision", reason="auto by row 2: below 1,000"),
        records.transition(3, "acting", "next", step="invoice"),
        records.transition(
            4,
            "done",
            "outcome",
            step="invoice",
            attempts=3,
            reason="invoice verified: total_minor is 900",
            first_failure_at=start + 500,
            at=start + 2100,
        ),
    ]


def test_a_good_run_is_told_in_words(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply(good_run(records))
    result = desk(app, "show", RUN)
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        f"Run {RUN} of order-to-invoice v1, business key 7",
        "Began 2026-01-01 10:02:03 UTC; times below are UTC.",
        "",
        "10:02:03  The order arrived (order_id 7, revision 1) and was prepared.",
        "10:02:04  The rules said: auto by row 2: below 1,000.",
        "10:02:05  Step invoice began.",
        "10:02:05  Invoice verified: total_minor is 900, after 3 attempts, failing first at 10:02:03.",
        "10:02:05  Done after 2.1 s; 3 attempts.",
        "",
        f"Trace        {'ab' * 16}",
    ]


def test_a_run_whose_call_is_tried_again_says_since_when_it_fails(ledger: Ledger, desk: Any, records: Any) -> None:
    begin = good_run(records)[:3]
    since = begin[0].timestamp + 2_000
    why = {"reason": "transient: billing answered 503", "first_failure_at": since, "at": since}
    ledger.apply([*begin, records.transition(4, "acting", "failing", step="invoice", attempts=1, **why)])
    output = desk(app, "show", RUN).output
    assert "Step invoice began to fail, and is tried again: transient: billing answered 503.\n" in output
    assert "It is acting at step invoice, which has failed for 58.0 s and is not recovered yet.\n" in output
    assert "it is tried again. See how the system is: handrail alerts" in output
    assert "nothing has moved" not in output
    assert "transient: billing answered 503" in desk(app, "list").output
    well = records.transition(1, "acting", "next", run="2" * 36)
    later = records.transition(1, "acting", "failing", run="3" * 36, at=since + 1, first_failure_at=since + 1)
    ledger.apply([well, later])
    listed = json.loads(desk(app, "list", "--failing", "--json").output)
    assert [row["run"] for row in listed] == [RUN, "3" * 36]
    assert "… and 1 more" in desk(app, "list", "--failing", "--limit", "1").output
    ledger.apply([records.transition(5, "done", "outcome", step="invoice", attempts=2, first_failure_at=since)])
    assert "has failed for" not in desk(app, "show", RUN).output
    assert [row["run"] for row in json.loads(desk(app, "list", "--failing", "--json").output)] == ["3" * 36]


def test_a_run_that_waits_for_a_person_says_how_to_answer(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply(
        [
            records.transition(1, "prepared", "prepared"),
            records.transition(2, "waiting", "decision", task=TASK, reason="over 10,000"),
            records.task(),
        ]
    )
    output = desk(app, "show", "7").output
    assert "Over 10,000. It waits for credit: Let order-to-invoice 7 go on?" in output
    assert "It is waiting, for 59.0 s now." in output
    assert f"Task         {TASK}  open: Let order-to-invoice 7 go on?" in output
    assert f"  handrail tasks approve {TASK}\n" in output
    assert f"  handrail tasks reject {TASK} --reason" in output


def test_a_verdict_is_told_with_who_gave_it(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply(
        [
            records.transition(1, "prepared", "prepared"),
            records.transition(2, "waiting", "human-decision", task=TASK, actor="ann", reason="good customer"),
            records.transition(3, "acting", "next", step="invoice"),
            records.transition(4, "rejected", "human-decision", task=TASK, actor="bob"),
            records.task(state="approved", decided_by="ann"),
        ]
    )
    output = desk(app, "show", "7").output
    assert "Ann said yes: good customer." in output
    assert "Bob said no." in output
    assert "Ended as rejected after 3.0 s." in output
    assert "What to do next" not in output


def test_a_failed_run_names_its_dead_letter_and_what_to_do(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply(
        [
            records.transition(1, "prepared", "prepared"),
            records.transition(2, "acting", "next", step="invoice"),
            records.transition(
                3,
                "failed",
                "outcome",
                step="invoice",
                attempts=1,
                failure_class="business",
                reason="billing answered 422: credit refused",
            ),
            records.letter(),
        ]
    )
    output = desk(app, "show", RUN).output
    assert "Step invoice failed (business): billing answered 422: credit refused. 1 attempt. It became" in output
    assert "Stopped as failed after 2.0 s; 1 attempt." in output
    assert f"Dead letter  {LETTER}  OPEN, business: billing said no: credit refused" in output
    assert f"  mend what failed, then: handrail dlq replay {LETTER}\n" in output


def test_manual_work_names_its_runbook(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply(
        [
            records.transition(1, "prepared", "prepared"),
            records.transition(
                2, "manual", "outcome", step="invoice", failure_class="unknown_outcome", reason="no answer", task=TASK
            ),
            records.task(kind="manual", title="Finish invoice by hand", group="billing-ops"),
        ]
    )
    output = desk(app, "show", RUN).output
    assert "Step invoice failed (unknown_outcome): no answer. It waits for billing-ops: Finish invoice by" in output
    assert f"do it by hand (see runbook.md), then: handrail tasks done {TASK}" in output


def test_gaps_and_repeats_are_warned_of(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.transition(3, "done", "outcome"), records.transition(3, "done", "outcome")])
    output = desk(app, "show", RUN).output
    assert "1 transition came more than once" in output
    assert "2 transitions missing" in output


def test_an_event_that_this_build_does_not_know_is_told_plainly(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.transition(1, "paused", "operator-pause", previous="acting", reason="maintenance")])
    assert "Operator-pause: acting -> paused (maintenance)." in desk(app, "show", RUN).output


def test_a_run_that_does_not_move_is_pointed_to_status(ledger: Ledger, desk: Any, records: Any) -> None:
    early = records.transition(1, "prepared", "prepared").timestamp - 600_000
    ledger.apply([records.transition(2, "acting", "next", step="invoice", at=early)])
    output = desk(app, "show", RUN).output
    assert "It is acting at step invoice, for 11 min now." in output
    assert "nothing has moved for a while: handrail status" in output


def test_text_from_outside_can_not_steer_the_terminal(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply(
        [
            records.transition(1, "prepared", "prepared", dedupe={"order_id": "\x1b[2J7"}),
            records.transition(2, "failed", "outcome", failure_class="bug", reason="[bold]x[/bold] \x1b]0;y\x07"),
        ]
    )
    output = desk(app, "show", RUN).output + desk(app, "list").output
    assert "\x1b" not in output
    assert "\x07" not in output
    assert "[bold]x[/bold] \\x1b]0;y\\x07" in output


@pytest.mark.parametrize("name", [RUN, "0a1b2c3d-0000-8000-8000-000000000001", "0a1", "7"])
def test_a_run_is_found_by_id_beginning_or_business_key(ledger: Ledger, desk: Any, records: Any, name: str) -> None:
    ledger.apply(good_run(records))
    assert f"Run {RUN}" in desk(app, "show", name).output


def test_what_means_more_than_one_run_is_refused_with_the_candidates(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([*good_run(records), records.transition(1, "prepared", "prepared", run=OTHER)])
    for name in ("7", "0a1b"):
        result = desk(app, "show", name)
        assert result.exit_code == 1
        assert f"{name!r} means more than one run" in result.output
        assert f"{RUN}  done" in result.output
        assert f"{OTHER}  prepared" in result.output
    assert desk(app, "show", RUN).exit_code == 0


def test_a_business_key_goes_before_the_beginning_of_an_id(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([*good_run(records), records.transition(1, "prepared", "prepared", run=OTHER, route="0a1b")])
    assert f"Run {OTHER}" in desk(app, "show", "0a1b").output


@pytest.mark.parametrize("name", ["nothing", "", "%", "_"])
def test_a_run_that_is_not_there_gives_a_hint(ledger: Ledger, desk: Any, records: Any, name: str) -> None:
    ledger.apply(good_run(records))
    result = desk(app, "show", name)
    assert result.exit_code == 1
    assert "in the ledger" in result.output
    assert "handrail runs list" in result.output


def test_the_story_as_json_has_all_that_the_words_have(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([*good_run(records), records.letter(), records.task()])
    told = json.loads(desk(app, "show", RUN, "--json").output)
    assert told["run"] == RUN
    assert told["trace"] == "ab" * 16
    assert [one["sequence"] for one in told["transitions"]] == [1, 2, 3, 4]
    assert told["letters"][0]["letter"] == LETTER
    assert told["tasks"][0]["task"] == TASK
    assert told["story"][0]["text"].startswith("The order arrived")
    assert told["standing"] == "Done after 2.1 s; 3 attempts."
    assert any("handrail dlq replay" in step for step in told["next"])


def test_the_list_is_newest_first_narrowed_and_bounded(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply(
        [
            records.transition(1, "prepared", "prepared", run=f"{n}" * 8 + "-x", route=f"k{n}", flow=f"flow-{n % 2}")
            for n in range(5)
        ]
    )
    ledger.apply([records.transition(2, "failed", "outcome", run="2" * 8 + "-x", reason="no\nmore", step="invoice")])
    lines = desk(app, "list").output.splitlines()
    assert lines[0].split() == ["RUN", "FLOW", "KEY", "STATE", "STEP", "SINCE", "WHY"]
    assert lines[1].split()[:7] == ["22222222", "flow-0", "v1", "k2", "failed", "invoice", "59.0"]
    assert "no more" in lines[1]
    assert len(lines) == 6
    assert "… and 2 more: --limit 5 shows all" in desk(app, "list", "--limit", "3").output
    told = json.loads(desk(app, "list", "--state", "failed", "--json").output)
    assert [run["state"] for run in told] == ["failed"]
    assert len(json.loads(desk(app, "list", "--flow", "flow-1", "--json").output)) == 2
    assert json.loads(desk(app, "list", "--flow", "none", "--json").output) == []
    assert "no run is so" in desk(app, "list", "--flow", "none").output


def test_an_empty_ledger_says_so(ledger: Ledger, desk: Any) -> None:
    assert "no runs yet" in desk(app, "list").output


def test_without_a_ledger_it_is_said_what_to_look_at(desk: Any, ledger: Ledger, path: Any) -> None:
    ledger.close()
    for file in path.parent.iterdir():
        file.unlink()
    result = desk(app, "list")
    assert isinstance(result.exception, StateError)
    assert "is console running? `handrail status`" in str(result.exception)


def test_every_command_has_an_example(desk: Any) -> None:
    for command in ("list", "show"):
        assert f"Example: handrail runs {command}" in desk(app, command, "--help").output
