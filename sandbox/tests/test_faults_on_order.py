"""Each fault, as a caller sees it and as the books tell it."""

from __future__ import annotations

import http.client
import socket
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from handrail_sandbox.books import Books
from handrail_sandbox.client import SandboxControl, running_sandbox
from handrail_sandbox.errors import OrderRefusedError


def raw_answer(url: str, reference: str) -> bytes:
    """Every byte that comes back for one call, until the other side closes."""
    address = urlsplit(url)
    body = f'{{"reference":"{reference}","customer_id":"7","total_minor":100,"currency":"EUR"}}'
    request = f"POST /billing/invoices HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(request.encode())
        got = b""
        while part := connection.recv(4096):
            got += part
    return got


@pytest.mark.parametrize("kind", ["500", "503", "429"])
def test_an_error_does_nothing(caller, sandbox: SandboxControl, books: Books, kind: str) -> None:
    sandbox.order_faults("billing", {"kind": kind})
    answer = caller.invoice("1/1")
    assert answer.status == int(kind)
    assert answer.headers["content-type"] == "application/problem+json"
    assert books.effects() == []
    assert caller.lookup("1/1").status == 404
    call = books.calls(fault=kind)[0]
    assert (call["status"], call["ending"], call["reference"]) == (int(kind), "replied", "1/1")


@pytest.mark.parametrize(
    ("rule", "header"),
    [
        ({"kind": "429"}, "1"),
        ({"kind": "429", "retry_after_s": 7}, "7"),
        ({"kind": "503", "retry_after_s": 3}, "3"),
        ({"kind": "503"}, None),
    ],
)
def test_retry_after_says_how_long(caller, sandbox: SandboxControl, rule, header) -> None:
    sandbox.order_faults("billing", rule)
    assert caller.invoice("1/1").headers.get("retry-after") == header


def test_a_lost_reply_closes_the_connection_without_a_byte_but_the_invoice_is_there(
    sandbox: SandboxControl, caller, books: Books
) -> None:
    sandbox.order_faults("billing", {"kind": "apply-then-lose-reply"})
    assert raw_answer(sandbox.url, "1/1") == b""
    assert caller.lookup("1/1").status == 200
    call = books.calls(fault="apply-then-lose-reply")[0]
    assert (call["status"], call["ending"]) == (None, "reply lost")
    assert [effect.call for effect in books.effects_by_reference()["1/1"]] == [call["id"]]


def test_the_reply_to_a_lookup_can_be_lost_too(caller, sandbox: SandboxControl) -> None:
    sandbox.order_faults("billing", {"kind": "apply-then-lose-reply", "method": "GET"})
    assert caller.invoice("1/1").status == 201
    with pytest.raises(http.client.RemoteDisconnected):
        caller.lookup("1/1")


def test_success_that_did_nothing_looks_like_success(caller, sandbox: SandboxControl, books: Books) -> None:
    sandbox.order_faults("billing", {"kind": "success-but-nothing"})
    answer = caller.invoice("1/1", 300)
    assert answer.status == 201
    assert answer.body["reference"] == "1/1"
    assert answer.body["invoice_id"].startswith("INV-")
    assert caller.lookup("1/1").status == 404
    assert books.effects() == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/crm/deals/d1", {"stage": "invoiced"}, 200),
        ("POST", "/shop/orders", {"order_id": "1", "customer_id": "7", "total_minor": 1, "currency": "EUR"}, 201),
        ("POST", "/billing/invoices/INV-1/void", None, 200),
    ],
)
def test_every_change_can_succeed_and_do_nothing(
    caller, sandbox: SandboxControl, books: Books, method, path, body, status
) -> None:
    sandbox.order_faults(path.split("/")[1], {"kind": "success-but-nothing"})
    assert caller.call(method, path, body).status == status
    assert books.effects() == []


def test_a_hang_never_replies_and_ends_when_the_caller_leaves(caller, sandbox: SandboxControl, books: Books) -> None:
    sandbox.order_faults("billing", {"kind": "hang"})
    with pytest.raises(TimeoutError):
        caller.call(
            "POST",
            "/billing/invoices",
            {"reference": "1/1", "customer_id": "7", "total_minor": 1, "currency": "EUR"},
            timeout=0.2,
        )
    call = books.calls(fault="hang")[0]
    assert (call["ending"], call["status"]) == ("hung", None)
    assert books.effects() == []
    while books.calls(fault="hang")[0]["ended_at"] is None:
        pass


def test_a_hang_is_bounded(sandbox: SandboxControl, books: Books) -> None:
    sandbox.order_faults("billing", {"kind": "hang", "delay_ms": 50})
    assert raw_answer(sandbox.url, "1/1") == b""
    call = books.calls(fault="hang")[0]
    assert call["ended_at"] - call["at"] >= 45
    assert books.effects() == []


def test_held_calls_end_with_the_server(db: Path) -> None:
    got: dict[str, bytes] = {}
    with running_sandbox(db) as sandbox, Books(db) as books:
        sandbox.order_faults("billing", {"kind": "hang", "times": 1}, {"kind": "slow", "delay_ms": 60_000})
        callers = []
        for reference in ("hangs/1", "slow/1"):
            caller = threading.Thread(target=lambda name=reference: got.update({name: raw_answer(sandbox.url, name)}))
            caller.start()
            callers.append(caller)
            while not books.calls(reference=reference):
                pass
    for caller in callers:
        caller.join()
    assert got == {"hangs/1": b"", "slow/1": b""}
    with Books(db) as books:
        assert [call["ending"] for call in books.calls()] == ["hung", "shut down"]
        assert books.effects() == []


def test_a_slow_call_is_done_late(caller, sandbox: SandboxControl, books: Books) -> None:
    sandbox.order_faults("billing", {"kind": "slow", "delay_ms": 60})
    assert caller.invoice("1/1").status == 201
    call = books.calls(fault="slow")[0]
    assert call["ended_at"] - call["at"] >= 55
    assert len(books.effects_by_reference()["1/1"]) == 1


def test_a_slow_call_is_done_although_its_caller_has_left(caller, sandbox: SandboxControl, books: Books) -> None:
    sandbox.order_faults("billing", {"kind": "slow", "delay_ms": 300})
    with pytest.raises(TimeoutError):
        caller.call(
            "POST",
            "/billing/invoices",
            {"reference": "1/1", "customer_id": "7", "total_minor": 1, "currency": "EUR"},
            timeout=0.05,
        )
    assert books.effects() == []
    while not books.effects():
        pass
    assert [call["ending"] for call in books.calls()] == ["replied"]


def test_a_fault_leaves_lookups_alone_unless_it_says_otherwise(caller, sandbox: SandboxControl) -> None:
    sandbox.order_faults("billing", {"kind": "503"})
    assert caller.lookup("1/1").status == 404
    sandbox.order_faults("billing", {"kind": "503", "method": "any"})
    assert caller.lookup("1/1").status == 503


def test_a_fault_of_one_system_leaves_the_others_alone(caller, sandbox: SandboxControl) -> None:
    sandbox.order_faults("billing", {"kind": "500"})
    assert caller.call("PUT", "/crm/deals/d1", {"stage": "new"}).status == 200


def test_a_mended_system_works_again(caller, sandbox: SandboxControl) -> None:
    sandbox.order_faults("billing", {"kind": "500", "sticky": "reference"})
    assert caller.invoice("1/1").status == 500
    sandbox.mend("billing")
    assert caller.invoice("1/1").status == 201
    assert sandbox.faults() == {"shop": [], "billing": [], "crm": []}


def test_a_budget_is_spent_and_no_more(caller, sandbox: SandboxControl) -> None:
    sandbox.order_faults("billing", {"kind": "503", "times": 2})
    assert [caller.invoice("1/1").status for _ in range(4)] == [503, 503, 201, 201]
    assert sandbox.faults()["billing"][0]["spent"] == 2


def test_a_bad_call_is_refused_before_any_fault(caller, sandbox: SandboxControl) -> None:
    sandbox.order_faults("billing", {"kind": "500"})
    assert caller.call("POST", "/billing/invoices", {}).status == 422


def test_faults_and_what_is_spent_of_them_outlive_the_server(db: Path, make_caller) -> None:
    with running_sandbox(db) as sandbox:
        sandbox.order_faults("billing", {"kind": "503", "times": 2})
        assert make_caller(sandbox).invoice("1/1").status == 503
    with running_sandbox(db) as sandbox:
        assert [make_caller(sandbox).invoice("1/1").status for _ in range(2)] == [503, 201]


SHARES = (
    {"kind": "503", "share": 0.2, "seed": 7},
    {"kind": "apply-then-lose-reply", "share": 0.2, "seed": 7},
    {"kind": "500", "share": 0.2, "seed": 7, "sticky": "reference"},
)


def faults_met(db: Path, make_caller, references: list[str], *, with_lookups: bool) -> list[tuple[str, int, str]]:
    """Ask for each invoice twice; gives which attempt met which fault."""
    with running_sandbox(db) as sandbox, Books(db) as books:
        sandbox.order_faults("billing", *SHARES)
        caller = make_caller(sandbox)
        for reference in references * 2:
            if with_lookups:
                caller.lookup(reference)
            with suppress(http.client.RemoteDisconnected):
                caller.invoice(reference)
        return sorted((call["reference"], call["attempt"], call["fault"] or "") for call in books.calls(method="POST"))


def test_the_same_seed_gives_the_same_faults_whatever_the_order_and_the_lookups(tmp_path: Path, make_caller) -> None:
    references = [f"{number}/1" for number in range(40)]
    once = faults_met(tmp_path / "once", make_caller, references, with_lookups=False)
    again = faults_met(tmp_path / "again", make_caller, references[::-1], with_lookups=True)
    assert once == again
    assert {fault for _, _, fault in once} == {"", "503", "500", "apply-then-lose-reply"}


@pytest.mark.parametrize(
    ("system", "rule", "told"),
    [
        ("billing", {"kind": "explode"}, "/0/kind"),
        ("billing", {"kind": "500", "share": 1.2}, "/0/share"),
        ("billing", {"kind": "500", "shar": 0.2}, "/0/shar"),
        ("billing", {"kind": "success-but-nothing", "method": "GET"}, "leave out method 'GET'"),
        ("biling", {"kind": "500"}, "the systems are shop, billing, crm"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(sandbox: SandboxControl, system, rule, told) -> None:
    with pytest.raises(OrderRefusedError, match=told):
        sandbox.order_faults(system, rule)
    assert sandbox.faults()["billing"] == []
