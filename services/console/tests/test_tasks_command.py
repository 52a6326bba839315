"""`handrail tasks`: what waits for a person, and their answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from handrail_console.commands.tasks import app
from handrail_console.ledger import Ledger

TASK = "3f2a91c0-0000-8000-8000-000000000001"
OTHER = "4f2a91c0-0000-8000-8000-000000000002"


def test_open_tasks_are_listed_what_is_due_first_comes_first(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply(
        [
            records.task(task=OTHER, due_at=None),
            records.task(),
            records.task(task="5" * 8 + "-x", state="done", decided_by="bob"),
        ]
    )
    lines = desk(app, "list").output.splitlines()
    assert [line.split()[0] for line in lines] == ["TASK", "3f2a91c0", "4f2a91c0"]
    assert "in 59 min" in lines[1]
    assert [task["task"] for task in json.loads(desk(app, "list", "--json").output)] == [TASK, OTHER]
    assert len(json.loads(desk(app, "list", "--state", "all", "--json").output)) == 3
    assert json.loads(desk(app, "list", "--flow", "none", "--json").output) == []


def test_nothing_to_do_is_said(ledger: Ledger, desk: Any) -> None:
    assert "nothing waits for a person" in desk(app, "list").output


def test_a_task_is_shown_with_what_a_person_needs(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.task()])
    output = desk(app, "show", "3f2a").output
    for text in ("Let order-to-invoice 7 go on?", '"total_minor": 900', "runbook.md", f"handrail tasks approve {TASK}"):
        assert text in output
    assert json.loads(desk(app, "show", TASK, "--json").output)["context"] == {"event": {"total_minor": 900}}


def test_a_context_that_is_no_json_is_shown_as_text(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.task(context="call Ann")])
    assert "call Ann" in desk(app, "show", TASK).output


@pytest.mark.parametrize(
    ("verdict", "args", "state", "reason", "minutes"),
    [
        ("approve", [], "approved", None, None),
        ("reject", ["--reason", "no credit", "--minutes", "0"], "rejected", "no credit", 0),
        ("done", ["--reason", "invoice 88", "--minutes", "12"], "done", "invoice 88", 12),
    ],
)
def test_an_answer_carries_the_run_and_waits_for_the_tasks_state(
    ledger: Ledger,
    desk: Any,
    records: Any,
    verdict: str,
    args: list[str],
    state: str,
    reason: str | None,
    minutes: int | None,
) -> None:
    ledger.apply([records.task()])
    desk.answers = [records.task(state=state, decided_by="ann")]
    result = desk(app, verdict, "3f2a", *args)
    assert result.exit_code == 0
    assert f"{TASK}  {state}  by ann" in result.output
    [order] = desk.sent
    assert order.key == TASK
    assert order.body == {
        "command": "decide",
        "letter": None,
        "generation": None,
        "task": TASK,
        "run": "0a1b2c3d-0000-8000-8000-000000000001",
        "flow": "order-to-invoice",
        "version": 1,
        "route": "7",
        "step": "review",
        "verdict": verdict,
        "by": "ann",
        "reason": reason,
        "minutes": minutes,
        "at": 1_767_261_783_000,
    }


def test_who_answers_may_be_named(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.task()])
    assert desk(app, "approve", TASK, "--by", "bob", "--wait", "0").exit_code == 0
    assert desk.bodies[0]["by"] == "bob"


def test_a_no_needs_a_reason(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.task()])
    assert desk(app, "reject", TASK).exit_code == 2
    assert desk(app, "reject", TASK, "--reason", " ").exit_code == 2
    assert desk.sent == []


def test_somebody_elses_other_answer_is_no_success(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.task()])
    desk.answers = [records.task(state="rejected", decided_by="bob")]
    result = desk(app, "approve", TASK)
    assert result.exit_code == 1
    assert "rejected  by bob" in result.output


def test_no_answer_in_time_is_no_success(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.task()])
    result = desk(app, "approve", TASK, "--wait", "2")
    assert result.exit_code == 1
    assert "no answer from recovery yet" in result.output


def test_a_closed_task_can_not_be_decided(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.task(state="approved", decided_by="ann")])
    result = desk(app, "reject", TASK, "--reason", "late")
    assert result.exit_code == 1
    assert "closed: approved by ann" in result.output
    assert desk.sent == []


def test_manual_work_can_not_be_approved(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.task(kind="manual")])
    result = desk(app, "approve", TASK)
    assert result.exit_code == 1
    assert f"handrail tasks done {TASK}" in result.output
    assert desk.sent == []


def test_a_task_that_is_not_there_gives_a_hint(ledger: Ledger, desk: Any) -> None:
    result = desk(app, "approve", "nothing")
    assert result.exit_code == 1
    assert "handrail tasks list --state all" in result.output


def test_every_command_has_an_example(desk: Any) -> None:
    for command in ("list", "show", "approve", "reject", "done"):
        assert f"Example: handrail tasks {command}" in desk(app, command, "--help").output
