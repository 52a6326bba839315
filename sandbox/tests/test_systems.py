"""What the shop, billing and the CRM do when nothing goes wrong."""

from __future__ import annotations

import pytest
from handrail_sandbox.books import Books

GOOD = {"reference": "1/1", "customer_id": "7", "total_minor": 100, "currency": "EUR"}


def test_an_invoice_is_made_and_found_by_its_reference(caller) -> None:
    made = caller.invoice("1/1", 250)
    assert made.status == 201
    assert made.body == {
        "invoice_id": made.body["invoice_id"],
        "reference": "1/1",
        "customer_id": "7",
        "total_minor": 250,
        "currency": "EUR",
    }
    assert caller.lookup("1/1").body == made.body
    assert caller.call("GET", f"/billing/invoices/{made.body['invoice_id']}").body == made.body


def test_billing_told_twice_makes_two_invoices_and_finds_the_first(caller, books: Books) -> None:
    first, second = caller.invoice("1/1"), caller.invoice("1/1")
    assert first.body["invoice_id"] != second.body["invoice_id"]
    assert caller.lookup("1/1").body == first.body
    assert list(books.duplicates()) == ["1/1"]


def test_an_invoice_that_is_not_there_is_a_404_with_problem_details(caller) -> None:
    answer = caller.lookup("9/9")
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.body == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "there is no invoice with reference '9/9'",
    }


def test_voiding_twice_is_one_effect(caller, books: Books) -> None:
    invoice_id = caller.invoice("1/1").body["invoice_id"]
    for _ in range(2):
        answer = caller.call("POST", f"/billing/invoices/{invoice_id}/void")
        assert (answer.status, answer.body["status"]) == (200, "void")
    assert caller.lookup("1/1").body["status"] == "void"
    assert len(books.effects(kind="void")) == 1
    assert caller.call("POST", "/billing/invoices/INV-0/void").status == 404


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"total_minor": 0}, "/total_minor"),
        ({"total_minor": "100"}, "/total_minor"),
        ({"total_minor": 1.5}, "/total_minor"),
        ({"total_minor": 2**63}, "/total_minor"),
        ({"currency": "eu"}, "/currency"),
        ({"reference": ""}, "/reference"),
        ({"customer_id": None}, "/customer_id"),
    ],
)
def test_a_bad_body_is_refused_with_the_field_named(caller, books: Books, change, pointer) -> None:
    answer = caller.call("POST", "/billing/invoices", {**GOOD, **change})
    assert answer.status == 422
    assert [error["pointer"] for error in answer.body["errors"]] == [pointer]
    assert books.effects() == []
    assert [call["status"] for call in books.calls()] == [422]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"reference": "\\ud800"}'])
def test_a_body_that_is_no_object_is_refused(caller, body: bytes) -> None:
    assert caller.call("POST", "/billing/invoices", body).status == 422


def test_a_body_over_the_cap_is_refused_and_the_server_goes_on(caller) -> None:
    assert caller.call("POST", "/billing/invoices", b" " * (1024 * 1024 + 1)).status == 413
    assert caller.invoice("1/1").status == 201


def test_a_lookup_without_a_reference_is_refused(caller) -> None:
    assert caller.call("GET", "/billing/invoices").status == 422


def test_a_call_for_which_there_is_nothing_is_told_and_logged(caller, books: Books) -> None:
    assert caller.call("GET", "/billing/nothing").status == 404
    assert caller.call("DELETE", "/billing/invoices").status == 405
    assert [(call["method"], call["status"]) for call in books.calls(system="billing")] == [
        ("GET", 404),
        ("DELETE", 405),
    ]


def test_a_deal_is_where_it_was_put_and_putting_it_there_again_is_no_effect(caller, books: Books) -> None:
    assert caller.call("GET", "/crm/deals/d1").status == 404
    for _ in range(2):
        assert caller.call("PUT", "/crm/deals/d1", {"stage": "invoiced"}).body == {"deal_id": "d1", "stage": "invoiced"}
    assert caller.call("GET", "/crm/deals/d1").body["stage"] == "invoiced"
    assert [effect["kind"] for effect in books.effects(system="crm")] == ["stage:invoiced"]


def test_the_shop_takes_an_order_once(caller, books: Books) -> None:
    order = {"order_id": "1", "customer_id": "7", "total_minor": 100, "currency": "EUR"}
    assert caller.call("POST", "/shop/orders", order).status == 201
    assert caller.call("POST", "/shop/orders", order).status == 409
    assert caller.call("GET", "/shop/orders/1").body == order
    assert caller.call("GET", "/shop/orders/2").status == 404
    assert len(books.effects(system="shop")) == 1
