"""`handrail review`: which flow was looked over when, and the note that it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from handrail_console.commands.review import review
from handrail_console.ledger import Ledger

app = typer.Typer()
app.command()(review)
DAY = 86_400_000
NOW = 1_767_261_783_000
FLOW = "order-to-invoice"
REASON = ("--reason", "the limits are right")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two flows, of which one wants to be reviewed every 90 days."""
    for folder, words in (
        ("order-to-invoice/v1", ""),
        ("order-to-invoice/v2", "review: 90d\n"),
        ("lead-to-deal/v1", ""),
    ):
        (tmp_path / "flows" / folder).mkdir(parents=True)
        text = f"flow: {folder.partition('/')[0]}\npeople: {{owner: ann@example.com}}\n{words}"
        (tmp_path / "flows" / folder / "flow.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)


def reviewed(records: Any, at: int, **more: Any) -> Any:
    about = {"letter": None, "generation": None, "run": None, "reason": "all well", "minutes": 30}
    return records.ordered("review", **(about | {"at": at} | more))


@pytest.mark.parametrize(("days", "code", "told"), [(1, 0, "in 89 days"), (91, 1, "24 h late"), (None, 0, "never")])
def test_a_late_review_is_told_and_is_no_success(
    ledger: Ledger, desk: Any, records: Any, days: int | None, code: int, told: str
) -> None:
    if days is not None:
        ledger.apply([reviewed(records, NOW - 200 * DAY), reviewed(records, NOW - days * DAY)])
    result = desk(app)
    assert result.exit_code == code
    [line] = [line for line in result.output.splitlines() if line.startswith(FLOW)]
    assert told in line
    assert "90 days" in line


@pytest.mark.parametrize(("days", "code"), [(89, 0), (91, 1)])
def test_a_flow_that_was_never_reviewed_is_late_some_time_after_its_first_run(
    ledger: Ledger, desk: Any, records: Any, days: int, code: int
) -> None:
    at = NOW - days * DAY
    ledger.apply(
        [records.transition(1, "prepared", "prepared", at=at), records.transition(2, "done", "outcome", at=NOW)]
    )
    assert desk(app).exit_code == code


def test_who_asks_for_no_review_is_never_late(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([reviewed(records, NOW - DAY), reviewed(records, NOW - 900 * DAY, flow="lead-to-deal", by="bob")])
    result = desk(app, "--json")
    assert result.exit_code == 0
    told = {one["flow"]: one for one in json.loads(result.output)}
    assert told["lead-to-deal"]["last"] == {"by": "bob", "reason": "all well", "minutes": 30, "at": NOW - 900 * DAY}
    assert (told["lead-to-deal"]["due_at"], told["lead-to-deal"]["late"]) == (None, False)
    assert (told[FLOW]["every_ms"], told[FLOW]["due_at"]) == (90 * DAY, NOW + 89 * DAY)


def test_a_review_is_noted_with_the_newest_version(ledger: Ledger, desk: Any, records: Any) -> None:
    desk.answers = [reviewed(records, NOW - DAY), reviewed(records, NOW, by="ann")]
    result = desk(app, FLOW, *REASON, "--minutes", "30")
    assert result.exit_code == 0, result.output
    assert f"{FLOW}  noted  by ann" in result.output
    [order] = desk.sent
    assert order.key == FLOW
    assert {name: value for name, value in order.body.items() if value is not None} == {
        "command": "review", "flow": FLOW, "version": 2, "by": "ann", "reason": REASON[1], "minutes": 30, "at": NOW,
    }  # fmt: skip


def test_another_review_is_no_answer(ledger: Ledger, desk: Any, records: Any) -> None:
    """An older one, one of somebody else, and one of a clock that is ahead."""
    others = [reviewed(records, NOW - DAY, by="ann"), reviewed(records, NOW), reviewed(records, NOW + DAY, by="ann")]
    ledger.apply(others)
    result = desk(app, FLOW, *REASON, "--wait", "2")
    assert result.exit_code == 1
    assert "no answer from recovery yet" in result.output


@pytest.mark.parametrize(
    ("args", "code", "why"),
    [
        ([FLOW], 2, "write what came of it"),
        ([FLOW, "--reason", " "], 2, "write what came of it"),
        (["order-to-invoise", *REASON], 1, "did you mean `order-to-invoice`?"),
        ([*REASON], 2, "name the flow"),
        ([FLOW, *REASON, "--minutes", "-1"], 2, "--minutes"),
    ],
)
def test_what_is_unclear_is_refused_and_nothing_is_sent(
    ledger: Ledger, desk: Any, args: list[str], code: int, why: str
) -> None:
    result = desk(app, *args)
    assert result.exit_code == code
    assert why in result.output
    assert desk.sent == []
