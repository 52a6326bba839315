"""`handrail audit`: who ordered what, and whether it was done."""

from __future__ import annotations

import json
from typing import Any

import pytest
import typer
from handrail_console.commands.audit import audit
from handrail_console.ledger import Ledger

APP = typer.Typer()
APP.command()(audit)
START = 1_767_261_723_000
RUN = "0a1b2c3d-0000-8000-8000-000000000001"
TASK = "3f2a91c0-0000-8000-8000-000000000001"
LETTER = "9c1d2e3f-0000-5000-8000-000000000001"


@pytest.fixture
def history(ledger: Ledger, records: Any) -> list[Any]:
    ordered = [
        records.transition(1, "prepared", "prepared"),
        records.ordered("replay", reason="billing is mended"),
        records.ordered("replay", by="bob@example.com", refused="the letter is REPLAYING", at=START + 1000),
        records.ordered("approve", letter=None, generation=None, task=TASK, at=START + 2000),
        records.ordered("discard", letter="another", run=None, at=START - 86_400_000),
        records.ordered("review", letter=None, generation=None, run=None, minutes=30, at=START - 86_400_001),
    ]
    ledger.apply(ordered)
    ledger.apply(ordered)  # again, as after a crash
    return ordered


def test_each_order_is_told_once_the_newest_first(history: Any, desk: Any) -> None:
    result = desk(APP, "--json")
    assert result.exit_code == 0
    assert [(row["what"], row["by"], row["refused"]) for row in json.loads(result.output)] == [
        ("approve", "ada@example.com", None),
        ("replay", "bob@example.com", "the letter is REPLAYING"),
        ("replay", "ada@example.com", None),
        ("discard", "ada@example.com", None),
        ("review", "ada@example.com", None),
    ]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["--by", "bob@example.com"], ["replay"]),
        (["--run", RUN[:8]], ["approve", "replay", "replay"]),
        (["--run", "7"], ["approve", "replay", "replay"]),
        (["--since", "1h"], ["approve", "replay", "replay"]),
        (["--limit", "1"], ["approve"]),
        (["--by", "nobody"], []),
    ],
)
def test_it_is_narrowed(history: Any, desk: Any, asked: list[str], found: list[str]) -> None:
    result = desk(APP, "--json", *asked)
    assert [row["what"] for row in json.loads(result.output)] == found


def test_an_order_about_a_closed_letter_is_found_by_the_letters_run(ledger: Ledger, records: Any, desk: Any) -> None:
    at = [records.transition(1, "prepared", "prepared"), records.letter(letter="closed", run=RUN)]
    ledger.apply(
        [*at, records.ordered("replay", letter="closed", run=None, flow=None, refused="the letter is RESOLVED")]
    )
    assert [row["letter"] for row in json.loads(desk(APP, "--json", "--run", RUN).output)] == ["closed"]


def test_a_person_reads_what_came_of_it(history: Any, desk: Any) -> None:
    said = desk(APP, "--limit", "3").output
    approved, refused, done = (line.split() for line in said.splitlines()[1:4])
    assert approved[3:8] == ["ada@example.com", "approve", "task", TASK, "handed"]
    assert "refused: the letter is REPLAYING" in " ".join(refused)
    assert done[4:7] == ["replay", "letter", LETTER]
    assert said.splitlines()[-1] == "… and more: --limit 30 shows them"


def test_nothing_ordered_is_said(ledger: Ledger, records: Any, desk: Any) -> None:
    ledger.apply([records.transition(1, "prepared", "prepared")])
    assert desk(APP).output == "nobody ordered anything in that time\n"


def test_a_run_that_is_not_there_and_a_time_that_is_none_are_refused(history: Any, desk: Any) -> None:
    assert desk(APP, "--run", "ffff").exit_code == 1
    assert desk(APP, "--since", "yesterday").exit_code == 2
