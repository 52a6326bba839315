"""What a system makes of an `Idempotency-Key`: nothing at first, or what Stripe makes of it."""

from __future__ import annotations

import http.client
import threading
from pathlib import Path

import pytest
from handrail_sandbox.books import Books
from handrail_sandbox.client import SandboxControl, running_sandbox


@pytest.fixture
def honouring(sandbox: SandboxControl) -> SandboxControl:
    sandbox.honour_idempotency_keys("billing")
    return sandbox


def test_a_key_is_ignored_at_first_but_logged(caller, books: Books) -> None:
    for _ in range(2):
        assert caller.invoice("1/1", Idempotency_Key="k").status == 201
    assert [effect.idempotency_key for effect in books.duplicates()["1/1"]] == ["k", "k"]


def test_the_same_call_again_gets_the_stored_reply(honouring: SandboxControl, caller, books: Books) -> None:
    first, again = (caller.invoice("1/1", Idempotency_Key="k") for _ in range(2))
    assert (again.status, again.body) == (first.status, first.body)
    assert len(books.effects()) == 1
    assert [call["replayed"] for call in books.calls()] == [0, 1]


def test_another_body_under_the_same_key_is_refused(honouring: SandboxControl, caller, books: Books) -> None:
    assert caller.invoice("1/1", 100, Idempotency_Key="k").status == 201
    assert caller.invoice("1/1", 200, Idempotency_Key="k").status == 422
    assert len(books.effects()) == 1


def test_without_a_key_nothing_is_prevented(honouring: SandboxControl, caller, books: Books) -> None:
    for _ in range(2):
        assert caller.invoice("1/1").status == 201
    assert len(books.effects()) == 2


def test_a_stored_500_is_replayed_even_when_the_system_is_mended(honouring: SandboxControl, caller) -> None:
    honouring.order_faults("billing", {"kind": "500"})
    assert caller.invoice("1/1", Idempotency_Key="k").status == 500
    honouring.mend("billing")
    assert caller.invoice("1/1", Idempotency_Key="k").status == 500
    assert caller.invoice("1/1", Idempotency_Key="k2").status == 201


@pytest.mark.parametrize("kind", ["503", "429"])
def test_what_was_refused_before_it_ran_is_not_stored(honouring: SandboxControl, caller, kind: str) -> None:
    honouring.order_faults("billing", {"kind": kind})
    assert caller.invoice("1/1", Idempotency_Key="k").status == int(kind)
    honouring.mend("billing")
    assert caller.invoice("1/1", Idempotency_Key="k").status == 201


def test_a_lost_reply_can_be_had_by_asking_again_with_the_same_key(
    honouring: SandboxControl, caller, books: Books
) -> None:
    honouring.order_faults("billing", {"kind": "apply-then-lose-reply"})
    with pytest.raises(http.client.RemoteDisconnected):
        caller.invoice("1/1", Idempotency_Key="k")
    assert caller.invoice("1/1", Idempotency_Key="k").status == 201
    assert len(books.effects()) == 1


def test_a_key_in_flight_is_a_409_and_is_free_after_the_hang(honouring: SandboxControl, caller, books: Books) -> None:
    honouring.order_faults("billing", {"kind": "slow", "delay_ms": 400, "times": 1})
    first: list[int] = []
    held = threading.Thread(target=lambda: first.append(caller.invoice("1/1", Idempotency_Key="k").status))
    held.start()
    while not books.calls():
        pass
    assert caller.invoice("1/1", Idempotency_Key="k").status == 409
    held.join()
    assert first == [201]
    assert caller.invoice("1/1", Idempotency_Key="k").status == 201
    assert len(books.effects()) == 1


def test_a_key_that_hung_may_be_used_again(honouring: SandboxControl, caller, books: Books) -> None:
    honouring.order_faults("billing", {"kind": "hang", "delay_ms": 20, "times": 1})
    with pytest.raises(http.client.RemoteDisconnected):
        caller.invoice("1/1", Idempotency_Key="k")
    assert caller.invoice("1/1", Idempotency_Key="k").status == 201
    assert len(books.effects()) == 1


def test_the_setting_and_the_stored_replies_outlive_the_server(db: Path, make_caller) -> None:
    with running_sandbox(db) as sandbox:
        sandbox.honour_idempotency_keys("billing")
        first = make_caller(sandbox).invoice("1/1", Idempotency_Key="k")
    with running_sandbox(db) as sandbox:
        assert make_caller(sandbox).invoice("1/1", Idempotency_Key="k").body == first.body
        sandbox.honour_idempotency_keys("billing", False)
        assert make_caller(sandbox).invoice("1/1", Idempotency_Key="k").body != first.body
