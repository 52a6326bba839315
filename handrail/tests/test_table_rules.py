"""Decision tables: the first row that holds wins, and a table that can't be right is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from handrail.contracts import Contracts
from handrail.errors import Failure, Problem
from handrail.flow.cel import Scope
from handrail.flow.table import Decision, Table, read_table
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
OTHERWISE = "- otherwise: {route: accept, reason: fine}\n"


@pytest.fixture(scope="module")
def scope() -> Scope:
    return Scope({"event": Contracts.load(ROOT / "contracts")["orders/order-accepted.v1"]})


def read(tmp_path: Path, scope: Scope, text: str) -> tuple[Table | None, list[Problem]]:
    problems: list[Problem] = []
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    return read_table(path, "rules.yaml", scope, problems), problems


def row(name: str, when: str, route: str = "reject") -> str:
    return f"- name: {name}\n  when: {when}\n  then: {{route: {route}, reason: because}}\n"


@pytest.fixture(scope="module")
def bands(tmp_path_factory: pytest.TempPathFactory, scope: Scope) -> Table:
    text = row("high", "event.total_minor >= 100") + row("some", "event.total_minor >= 10", "review") + OTHERWISE
    table, problems = read(tmp_path_factory.mktemp("table"), scope, text)
    assert problems == []
    assert table is not None
    return table


@given(total=st.integers(-(2**63), 2**63 - 1))
def test_the_first_row_that_holds_wins(bands: Table, total: int) -> None:
    expected = "high" if total >= 100 else "some" if total >= 10 else "otherwise"
    assert bands.decide({"event": {"total_minor": total}}).row == expected


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (row("a", "event.total_minor > 1"), 1, "the last row is not `otherwise`"),
        ("[]", 1, "the last row is not `otherwise`"),
        ("rows: []", 1, "a rules file is a list of rows"),
        (OTHERWISE + row("a", "event.total_minor > 1"), 2, "`otherwise` takes everything"),
        (row("a", '"true"') + row("b", "event.total_minor > 1") + OTHERWISE, 4, "`a` takes everything"),
        (row("a", "event.revision > 1") + row("b", "event.revision  >  1") + OTHERWISE, 4, "`a` asks the same"),
        (row("a", "event.revision > 1") + row("a", "event.revision > 2") + OTHERWISE, 4, "is there twice"),
        (row("a", "event.revision > 1", "rejekt") + OTHERWISE, 3, "write 'accept', 'review' or 'reject'"),
        (row("a", "event.revision") + OTHERWISE, 2, "gives INT, not a yes or no"),
        (row("a", "event.customer_name") + OTHERWISE, 2, "gives DYN, not a yes or no"),
        (row("a", "event.revison > 1") + OTHERWISE, 2, "did you mean `event.revision`?"),
        (row("a", "event.revision > 'x'") + OTHERWISE, 2, "can't be used between int and string"),
        (row("a", "event.revision >") + OTHERWISE, 2, "mismatched input"),
        ("- name: a\n  when: event.revision > 1\n" + OTHERWISE, 1, "the row lacks then"),
        ("- {name: a, otherwise: {route: accept, reason: x}}\n", 1, "something beside it"),
        ("- otherwise: {route: accept, reason: x, due: 4h}\n", 1, "are for a review"),
        ("- otherwise: {route: accept}\n", 1, "`0.otherwise.reason` is missing"),
    ],
)
def test_a_table_that_can_not_be_right_is_refused(
    tmp_path: Path, scope: Scope, text: str, line: int, what: str
) -> None:
    table, problems = read(tmp_path, scope, text)
    assert table is None
    assert any(what in str(each) and each.line == line for each in problems), [str(each) for each in problems]


@pytest.mark.parametrize(
    ("when", "event", "error_class"),
    [
        ("event.total_minor > 1", {}, "contract"),
        ("event.total_minor > 1", {"total_minor": "much"}, "contract"),
        ("size(event.customer_name) > 1", {"customer_name": None}, "contract"),
        ("1 / event.total_minor > 1", {"total_minor": 0}, "bug"),
    ],
)
def test_a_rule_that_can_not_be_answered_fails_with_its_class(
    tmp_path: Path, scope: Scope, when: str, event: dict[str, object], error_class: str
) -> None:
    table, _ = read(tmp_path, scope, row("a", when) + OTHERWISE)
    assert table is not None
    with pytest.raises(Failure, match="can't be answered") as caught:
        table.decide({"event": event})
    assert caught.value.error_class == error_class


def test_a_field_that_may_be_null_can_be_asked_for_it(tmp_path: Path, scope: Scope) -> None:
    table, _ = read(tmp_path, scope, row("nameless", "event.customer_name == null") + OTHERWISE)
    assert table is not None
    assert table.decide({"event": {}}).row == "nameless"
    assert table.decide({"event": {"customer_name": "Ann"}}).row == "otherwise"


def test_a_decision_survives_as_json() -> None:
    decision = Decision("ä row", "review", "because", "credit", 5)
    assert Decision.from_json(decision.to_json()) == decision
