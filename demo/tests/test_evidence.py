"""What is made of the records of runs, dead-letters and recovery.states."""

from __future__ import annotations

from typing import Any

from handrail.identity import run_id
from handrail_demo.accounting import LetterSeen, RunSeen
from handrail_demo.evidence import expected_runs, newest_letters, newest_runs

DEDUPE = {"order_id": "1", "revision": "2"}


def transition(sequence: int, state: str, run: str = "r", **more: Any) -> dict[str, Any]:
    return {"run": run, "flow": "order-to-invoice", "sequence": sequence, "state": state, "dedupe": DEDUPE, **more}


def letter(generation: int = 1, name: str = "l", **more: Any) -> dict[str, Any]:
    return {"letter": name, "generation": generation, "topic": "t", "partition": 3, "offset": 9, "run": None, **more}


def state(generation: int, now: str, name: str = "l") -> dict[str, Any]:
    return {"letter": name, "generation": generation, "state": now}


def test_the_highest_sequence_counts_wherever_it_stands() -> None:
    seen = newest_runs([transition(2, "done"), transition(1, "received"), transition(1, "received", run="other")])
    assert seen == [RunSeen("r", "1/2", "done"), RunSeen("other", "1/2", "received")]


def test_runs_of_other_flows_are_left_out() -> None:
    assert newest_runs([transition(1, "done", flow="another")]) == []


def test_a_run_with_other_dedupe_fields_has_no_identity() -> None:
    assert newest_runs([transition(1, "done", dedupe={"ticket": "9"})]) == [RunSeen("r", None, "done")]


def test_a_letter_without_a_state_is_open() -> None:
    assert newest_letters([(b"l", letter())], []) == [LetterSeen("l", "OPEN", "t/3/9", None)]


def test_the_newest_state_of_a_generation_counts() -> None:
    states = [state(1, "OPEN"), state(1, "REPLAYING"), state(1, "RESOLVED")]
    assert [seen.state for seen in newest_letters([(b"l", letter())], states)] == ["RESOLVED"]


def test_a_letter_that_failed_again_is_open_whatever_its_last_generation_was() -> None:
    letters = [(b"l", letter(1)), (b"l", letter(2))]
    assert [seen.state for seen in newest_letters(letters, [state(1, "RESOLVED")])] == ["OPEN"]
    assert [seen.state for seen in newest_letters(letters, [state(2, "DISCARDED"), state(1, "OPEN")])] == ["DISCARDED"]


def test_a_tombstone_removes_a_letter() -> None:
    assert newest_letters([(b"l", letter()), (b"l", None), (b"never", None)], []) == []


def test_the_run_of_an_identity_is_the_one_that_the_library_makes() -> None:
    run = run_id("order-to-invoice", DEDUPE)
    assert expected_runs(["1/2", "@ingest.orders.order-accepted/0/3"]) == {run: "1/2"}
    assert list(expected_runs(["a/b/2"])) == [run_id("order-to-invoice", {"order_id": "a/b", "revision": "2"})]
