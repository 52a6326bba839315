"""Each service can be stopped, or killed, alone: what is for it waits, the others go on, and it catches up."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from handrail_console.orders import Said, Sender, task_order
from handrail_demo.inflight import Inbox, kill_in_flight

pytestmark = pytest.mark.kafka
Company = Any
Order = dict[str, Any]

FLOW = "order-to-invoice"
OVER_THE_LIMIT = 34_000_001
INBOXES = {
    "ingest": Inbox(f"{FLOW}.ingest.orders.order-accepted", "ingest.orders.order-accepted"),
    "transform": Inbox(f"{FLOW}.transform", f"{FLOW}.transform"),
    "decision": Inbox(f"{FLOW}.decision", f"{FLOW}.decision"),
    "action": Inbox("action.billing", "action.billing", "action.billing.state"),
    "recovery": Inbox("recovery.letters", "dead-letters"),
}


def arrived(company: Company, topic: str, orders: list[Order]) -> None:
    """Each order's record stands in the topic."""
    keys = {order["order_id"] for order in orders}

    def all_there() -> bool:
        return keys <= {one.key for one in company.onlooker.seen(topic)}

    company.onlooker.wait(all_there, f"{len(keys)} records in {topic}")


def approve(company: Company, order: Order) -> None:
    (task,) = company.onlooker.wait(lambda: company.tasks(order), "a task")
    send = Sender(company.stack.bootstrap, company.contracts)
    send([task_order("approve", task, Said("ada@example.com"), task["at"])])


def each_done_once(company: Company, orders: list[Order]) -> None:
    """Nothing lost, nothing twice: in billing's books, in the audit log, and for those who listen."""
    company.wait_for("done", *orders)
    keys = {order["order_id"] for order in orders}

    def told() -> bool:
        return keys <= {one.key for one in company.onlooker.seen(f"{FLOW}.done")}

    company.onlooker.wait(told, "every event of a result")
    assert set(company.invoice_counts(orders).values()) == {1}
    events = Counter(one.key for one in company.onlooker.seen(f"{FLOW}.done") if one.key in keys)
    assert set(events.values()) == {1}
    runs = {company.run_of(order) for order in orders}
    steps = [one.value for one in company.onlooker.seen("runs") if one.value and one.value["run"] in runs]
    told_twice = [step for step, count in Counter((one["run"], one["sequence"]) for one in steps).items() if count > 1]
    assert told_twice == []


def reviews_are_still_decided(company: Company, review: Order, orders: list[Order]) -> None:
    approve(company, review)
    company.wait_for("done", review)


def bad_orders_still_become_letters(company: Company, review: Order, orders: list[Order]) -> None:
    bad = company.order(currency="eu")
    company.publish(bad)
    letter = company.letter(bad)["letter"]
    company.onlooker.wait(lambda: company.letter_states(letter) == ["OPEN"], "an open letter")
    approve(company, review)


def decision_still_decides(company: Company, review: Order, orders: list[Order]) -> None:
    company.wait_for("acting", *orders)
    approve(company, review)
    company.wait_for("acting", review)


def orders_are_still_invoiced(company: Company, review: Order, orders: list[Order]) -> None:
    company.wait_for("done", *orders)
    approve(company, review)


@pytest.mark.parametrize(
    ("service", "waits_in", "the_others_go_on"),
    [
        ("ingest", "ingest.orders.order-accepted", reviews_are_still_decided),
        ("transform", f"{FLOW}.transform", reviews_are_still_decided),
        ("decision", f"{FLOW}.decision", bad_orders_still_become_letters),
        ("action", "action.billing", decision_still_decides),
        ("recovery", "action.billing", orders_are_still_invoiced),
        ("console", "action.billing", orders_are_still_invoiced),
    ],
)
def test_while_a_service_is_stopped_its_work_waits_and_the_others_go_on(
    company: Company, service: str, waits_in: str, the_others_go_on: Callable[[Company, Order, list[Order]], None]
) -> None:
    before, review = company.orders(3), company.order(total_minor=OVER_THE_LIMIT)
    company.publish(*before, review)
    company.wait_for("done", *before)
    company.wait_for("waiting", review)

    company.stack.stop_service(service)
    assert company.process(service).note == "exit code 0"
    orders = company.orders(10)
    company.publish(*orders)
    arrived(company, waits_in, orders)
    the_others_go_on(company, review, orders)
    if service not in ("recovery", "console"):
        assert "done" not in {company.state(order) for order in orders}

    company.stack.start_service(service)
    each_done_once(company, [*before, *orders, review])
    assert company.process(service).restarts >= 1


def test_the_ledger_catches_up_with_what_happened_while_console_was_stopped(company: Company) -> None:
    company.stack.stop_service("console")
    order = company.order()
    company.publish(order)
    company.wait_for("done", order)
    assert company.handrail("runs", "show", order["order_id"]).returncode == 1
    company.stack.start_service("console")

    def has_it(rows: list[dict[str, Any]]) -> bool:
        return any(row["run"] == company.run_of(order) and row["state"] == "done" for row in rows)

    company.wait_told(has_it, "runs", "list")


def test_every_service_killed_with_9_during_work_loses_and_doubles_nothing(company: Company) -> None:
    """Each is killed while it has something in hand: records read and not committed, or calls under way."""
    good: list[Order] = []
    bad: list[Order] = []
    all_killed = threading.Event()

    def publish() -> None:
        while not all_killed.is_set():
            good.extend(some := company.orders(6))
            bad.extend(others := company.orders(2, currency="eu"))
            company.publish(*some, *others, rate=25.0)

    publishing = threading.Thread(target=publish, name="publisher")
    publishing.start()
    in_flight = {}
    try:
        for service, inbox in INBOXES.items():
            pid, in_flight[service] = kill_in_flight(company.stack, service, inbox)
            company.stack.wait_restarted(service, pid)
    finally:
        all_killed.set()
        publishing.join()
    assert all(count > 0 for count in in_flight.values()), in_flight

    each_done_once(company, good)
    letters = {order["order_id"]: company.letter(order)["letter"] for order in bad}
    assert Counter(one["letter"] for one in company.letters(*bad)) == Counter(letters.values())

    def all_open() -> bool:
        return all(company.letter_states(letter) for letter in letters.values())

    company.onlooker.wait(all_open, "every letter is open")
    assert all(company.letter_states(letter) == ["OPEN"] for letter in letters.values())
    assert set(company.invoice_counts(bad).values()) == {0}
