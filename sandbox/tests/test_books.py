"""The books: complete, readable beside a server, over HTTP and from the file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from handrail_sandbox.books import Books
from handrail_sandbox.client import SandboxControl, running_sandbox
from handrail_sandbox.errors import BooksError

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_call_is_logged_with_all_that_came_with_it(caller, books: Books) -> None:
    caller.invoice("1/1", 250, Idempotency_Key="run/invoice/r1", traceparent=TRACE)
    call = books.calls()[0]
    assert call["at"] <= call["ended_at"]
    assert call["body"] == '{"reference": "1/1", "customer_id": "7", "total_minor": 250, "currency": "EUR"}'
    assert len(call["body_hash"]) == 32
    told = ("system", "operation", "method", "path", "reference", "attempt", "idempotency_key", "traceparent", "status")
    assert tuple(call[name] for name in told) == (
        "billing",
        "create-invoice",
        "POST",
        "/billing/invoices",
        "1/1",
        1,
        "run/invoice/r1",
        TRACE,
        201,
    )


def test_an_effect_names_its_call_its_key_and_its_money(caller, books: Books) -> None:
    caller.invoice("1/1", 250, Idempotency_Key="k")
    effect = books.effects_by_reference()["1/1"][0]
    assert (effect.system, effect.kind, effect.amount_minor, effect.currency) == ("billing", "invoice", 250, "EUR")
    assert (effect.idempotency_key, effect.call) == ("k", books.calls()[0]["id"])


def test_attempts_of_one_reference_are_counted_apart_from_lookups(caller, books: Books) -> None:
    caller.invoice("1/1")
    caller.lookup("1/1")
    caller.invoice("1/1")
    caller.invoice("2/1")
    assert [(call["operation"], call["reference"], call["attempt"]) for call in books.calls()] == [
        ("create-invoice", "1/1", 1),
        ("find-invoice", "1/1", 1),
        ("create-invoice", "1/1", 2),
        ("create-invoice", "2/1", 1),
    ]


def test_the_books_can_be_read_over_http_with_filters_and_pages(caller, sandbox: SandboxControl) -> None:
    for number in range(5):
        caller.invoice(f"{number}/1")
    page = caller.call("GET", "/_books/effects?system=billing&limit=3").body
    assert [effect["reference"] for effect in page["items"]] == ["0/1", "1/1", "2/1"]
    rest = caller.call("GET", f"/_books/effects?system=billing&limit=3&after={page['next_after']}").body
    assert [effect["reference"] for effect in rest["items"]] == ["3/1", "4/1"]
    assert rest["next_after"] is None
    assert len(caller.call("GET", "/_books/calls?reference=4/1").body["items"]) == 1
    assert len(caller.call("GET", "/_books/calls?status=201").body["items"]) == 5


@pytest.mark.parametrize("query", ["colour=blue", "limit=many", "after=x"])
def test_a_filter_that_is_not_there_is_refused(caller, query: str) -> None:
    assert caller.call("GET", f"/_books/calls?{query}").status == 422


def test_the_summary_counts_calls_faults_effects_and_what_was_done_twice(caller, sandbox: SandboxControl) -> None:
    sandbox.order_faults("billing", {"kind": "503", "times": 1})
    for reference in ("1/1", "1/1", "1/1", "2/1"):
        caller.invoice(reference, 100)
    assert sandbox.summary() == {
        "systems": {
            "billing": {
                "calls": 4,
                "statuses": {"201": 3, "503": 1},
                "faults": {"503": 1},
                "replayed": 0,
                "effects": {"invoice": {"count": 3, "references": 2, "amount_minor": 300, "doubled": 1}},
            }
        }
    }


def test_looking_at_the_books_is_no_call(caller, books: Books) -> None:
    assert caller.call("GET", "/_health").body["status"] == "ok"
    caller.call("GET", "/_books/summary")
    assert books.calls() == []


def test_the_file_can_be_read_after_the_server_has_ended(db: Path, make_caller) -> None:
    with running_sandbox(db) as sandbox:
        make_caller(sandbox).invoice("1/1")
    with Books(db) as books:
        assert list(books.effects_by_reference()) == ["1/1"]


def test_a_reader_can_change_nothing(books: Books) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        books._connection.execute("DELETE FROM calls")


def test_books_that_are_not_there_are_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(BooksError, match="there are no books at"):
        Books(tmp_path / "none.sqlite")


def test_another_programs_database_is_not_touched(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    before = other.read_bytes()
    with pytest.raises(BooksError, match="not a sandbox's books"), running_sandbox(other):
        pass
    assert other.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to be taken for one" * 100)
    with pytest.raises(BooksError, match="give another file with --db"), running_sandbox(tmp_path / "text"):
        pass
