"""The whole way of an order, as its users see it: the command line, the public topics, and billing's own books."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from handrail_console.orders import Said, Sender, letter_order

pytestmark = pytest.mark.kafka
Company = Any

OVER_THE_LIMIT = 34_000_001


def write(path: Path, *orders: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(order) + "\n" for order in orders))
    return path


def test_a_published_order_becomes_one_verified_invoice_and_its_story_is_told(company: Company, tmp_path: Path) -> None:
    order = company.order()
    file, manifest = write(tmp_path / "orders.jsonl", order), tmp_path / "sent.jsonl"
    published = company.handrail("publish", "orders/order-accepted.v1", str(file), "--manifest", str(manifest))
    assert published.returncode == 0, published.stderr
    assert published.stdout.startswith("published=1 refused=0 topic=ingest.orders.order-accepted")
    (sent,) = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert (sent["line"], sent["key"], sent["topic"]) == (1, order["order_id"], "ingest.orders.order-accepted")

    company.wait_for("done", order)
    assert [one["state"] for one in company.transitions(order)] == ["prepared", "decided", "acting", "done"]
    (invoice,) = company.invoices(order)
    assert (invoice.amount_minor, invoice.currency) == (order["total_minor"], order["currency"])

    def is_done(rows: list[dict[str, Any]]) -> bool:
        return any(row["run"] == company.run_of(order) and row["state"] == "done" for row in rows)

    company.wait_told(is_done, "runs", "list", "--state", "done")
    story = company.handrail("runs", "show", order["order_id"])
    assert story.returncode == 0, story.stderr
    assert f"business key {order['order_id']}" in story.stdout
    assert f"The order arrived (order_id {order['order_id']}, revision 1) and was prepared." in story.stdout
    assert "The rules said: accept by row otherwise: Within the limits." in story.stdout
    assert "Step invoice began." in story.stdout
    assert "Invoice verified." in story.stdout
    assert "Done after " in story.stdout
    assert "Warning" not in story.stdout


def test_the_result_is_an_event_for_everyone_who_has_the_contracts(company: Company) -> None:
    order = company.order()
    company.publish(order)
    company.onlooker.wait(lambda: company.done_events(order), "an event of the result")
    (event,) = company.done_events(order)
    (invoice,) = company.invoices(order)
    assert event.value == {
        "order_id": order["order_id"],
        "revision": 1,
        "total_minor": order["total_minor"],
        "currency": "EUR",
        "invoice_id": f"INV-{invoice.call:08d}",
    }
    headers = {name: (value or b"").decode() for name, value in event.headers.items()}
    assert headers.pop("ce_id")
    assert headers.pop("ce_time").startswith("20")
    assert headers.pop("traceparent").startswith("00-")
    assert headers == {
        "ce_specversion": "1.0",
        "ce_type": "orders/order-invoiced.v1",
        "ce_source": "handrail/order-to-invoice.decision",
        "ce_subject": order["order_id"],
        "ce_dataschema": "contracts/orders/order-invoiced.v1.avsc",
        "content-type": "application/avro",
    }


def test_an_order_that_comes_twice_is_invoiced_once_and_a_new_revision_again(company: Company) -> None:
    order = company.order()
    revised = order | {"revision": 2, "total_minor": 140_000}
    company.publish(order, order, revised, order, revised)
    company.wait_for("done", order, revised)
    after = company.order(order_id=order["order_id"], revision=3)
    company.publish(order, after)  # same key, same partition: when it is done, what came before it was handled
    company.wait_for("done", after)
    assert [len(company.invoices(one)) for one in (order, revised, after)] == [1, 1, 1]
    assert [len(company.transitions(one)) for one in (order, revised, after)] == [4, 4, 4]


@pytest.mark.parametrize(
    ("verdict", "state", "ends", "invoices"),
    [("approve", "approved", "done", 1), ("reject", "rejected", "rejected", 0), ("done", "done", "done-by-hand", 0)],
)
def test_a_person_decides_a_review_at_the_command_line_and_the_run_follows(
    company: Company, verdict: str, state: str, ends: str, invoices: int
) -> None:
    order = company.order(total_minor=OVER_THE_LIMIT)
    company.publish(order)
    company.wait_for("waiting", order)
    (opened,) = company.onlooker.wait(lambda: company.tasks(order), "a task")

    def of_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row for row in rows if row["task"] == opened["task"]]

    (task,) = of_order(company.wait_told(of_order, "tasks", "list"))
    assert (task["group"], task["kind"], task["state"], task["route"]) == (
        "credit",
        "approval",
        "open",
        order["order_id"],
    )
    assert task["context"]["request"]["total_minor"] == OVER_THE_LIMIT
    decided = company.handrail("tasks", verdict, task["task"], "--reason", "looked at it", "--by", "ada@example.com")
    assert decided.returncode == 0, decided.stdout + decided.stderr
    assert f"{task['task']}  {state}  by ada@example.com" in decided.stdout

    company.wait_for(ends, order)
    assert len(company.invoices(order)) == invoices
    company.onlooker.wait(lambda: len(company.tasks(order)) > 1, "the task is closed")
    assert [one["state"] for one in company.tasks(order)] == ["open", state]
    again = company.handrail("tasks", verdict, task["task"], "--reason", "once more")
    assert again.returncode == 1
    assert f"the task is closed: {state} by ada@example.com" in again.stderr


def test_an_order_with_an_invalid_field_is_a_dead_letter_that_tells_field_reason_and_bytes(company: Company) -> None:
    order = company.order(currency="eu")
    company.publish(order)
    letter = company.letter(order)

    def has_it(rows: list[dict[str, Any]]) -> bool:
        return any(row["letter"] == letter["letter"] for row in rows)

    company.wait_told(has_it, "dlq", "list", "--class", "contract")
    told = company.told("dlq", "show", letter["letter"])
    assert (told["state"], told["failure_class"], told["field"]) == ("OPEN", "contract", "currency")
    assert told["payload"]["decoded"] == order
    assert letter["value"] == company.contracts.encode("orders/order-accepted.v1", order)

    shown = company.handrail("dlq", "show", letter["letter"][:13])
    assert shown.returncode == 0, shown.stderr
    lines = {line[:13].strip(): line[13:] for line in shown.stdout.splitlines()}
    assert lines["Field"] == "currency"
    assert lines["Failed"].startswith("contract: ")
    assert "^[A-Z]{3}$" in lines["Failed"] or "'eu'" in lines["Failed"]
    assert lines["Stood at"] == f"{letter['topic']}, partition {letter['partition']}, offset {letter['offset']}"
    assert f"handrail dlq replay {letter['letter']}" in shown.stdout
    assert company.transitions(order) == []
    assert company.invoices(order) == []


def test_what_is_tried_again_is_seen_failing_meanwhile_and_counts_as_not_recovered(company: Company) -> None:
    company.sandbox.order_faults("billing", {"kind": "429", "times": 1, "retry_after_s": 25})
    order = company.order()
    run = company.run_of(order)

    def recovered_at() -> int | None:
        with closing(sqlite3.connect(f"file:{company.home / 'ledger.sqlite'}?mode=ro", uri=True)) as ledger:
            [(at,)] = ledger.execute(
                "SELECT recovered_at FROM measured_recoveries WHERE run = ? AND segment = 'all'", [run]
            )
        return None if at is None else int(at)

    company.publish(order)
    company.wait_told(lambda rows: any(row["run"] == run for row in rows), "runs", "list", "--failing")
    story = company.told("runs", "show", run)
    assert story["standing"].startswith("It is acting at step invoice, which has failed for ")
    assert "Step invoice began to fail, and is tried again: rate_limited: " in story["story"][-1]["text"]
    assert recovered_at() is None
    company.wait_for("done", order, within_s=60)
    company.wait_told(lambda told: told["state"] == "done", "runs", "show", run)
    assert recovered_at() is not None


def test_what_billing_refused_for_too_long_is_replayed_once_it_is_mended_and_only_once(company: Company) -> None:
    company.sandbox.order_faults("billing", {"kind": "503"})
    order = company.order()
    company.publish(order)
    company.wait_for("failed", order)
    letter = company.letter(order)
    assert (letter["failure_class"], letter["step"], letter["attempts"]) == ("transient", "invoice", 7)
    assert company.invoices(order) == []
    company.sandbox.mend("billing")

    def is_open(rows: list[dict[str, Any]]) -> bool:
        return any(row["letter"] == letter["letter"] for row in rows)

    company.wait_told(is_open, "dlq", "list", "--class", "transient")
    replayed = company.handrail("dlq", "replay", letter["letter"], "--reason", "billing is mended")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert "1 RESOLVED" in replayed.stdout
    company.wait_for("done", order)
    assert len(company.invoices(order)) == 1
    assert company.letter_states(letter["letter"]) == ["OPEN", "REPLAYING", "RESOLVED"]

    calls = len(company.calls(order))
    again = company.handrail("dlq", "replay", letter["letter"])
    assert "RESOLVED" in again.stdout
    assert [len(company.invoices(order)), len(company.calls(order))] == [1, calls]
    assert company.letter_states(letter["letter"]) == ["OPEN", "REPLAYING", "RESOLVED"]
    story = company.wait_told(lambda told: told["state"] == "done", "runs", "show", order["order_id"])
    texts = [one["text"] for one in story["story"]]
    assert any("became a dead letter" in text for text in texts)
    assert any("its dead letter was replayed" in text.lower() for text in texts)


def test_a_replay_that_fails_again_is_the_same_letter_open_again_and_a_double_click_is_one_click(
    company: Company,
) -> None:
    order = company.order(currency="eu")
    company.publish(order)
    first = company.letter(order)
    company.onlooker.wait(lambda: company.letter_states(first["letter"]), "an open letter")
    click = letter_order("replay", first, Said("ada@example.com"), first["failed_at"])
    send = Sender(company.stack.bootstrap, company.contracts)
    send([click, click])
    second = company.letter(order, generation=2)
    assert (second["letter"], second["value"], second["offset"]) == (first["letter"], first["value"], first["offset"])
    company.onlooker.wait(lambda: len(company.letter_states(first["letter"])) == 3, "open again")

    other = company.order(currency="eu")
    company.publish(other)
    others = company.letter(other)["letter"]
    company.onlooker.wait(lambda: company.letter_states(others), "an open letter")
    send([click])  # of a generation that is over: nothing is to happen, which shows when the next order is carried out
    send([letter_order("discard", {"letter": others, "generation": 1}, Said("ada@example.com", "a test"), 0)])
    company.onlooker.wait(lambda: company.letter_states(others) == ["OPEN", "DISCARDED"], "a discarded letter")
    assert company.letter_states(first["letter"]) == ["OPEN", "REPLAYING", "OPEN"]
    assert len(company.letters(order)) == 2


def test_what_billing_says_no_to_is_a_letter_at_once_and_its_replay_calls_once_more(company: Company) -> None:
    order = company.order(customer_id="c" * 201)  # our contract takes it, billing answers 422
    company.publish(order)
    company.wait_for("failed", order)
    first = company.letter_of_run(order)
    assert (first["failure_class"], first["attempts"]) == ("business", 1)
    company.onlooker.wait(lambda: company.letter_states(first["letter"]), "an open letter")
    send = Sender(company.stack.bootstrap, company.contracts)
    send([letter_order("replay", first, Said("ada@example.com"), first["failed_at"])])
    second = company.letter_of_run(order, number=2)
    company.onlooker.wait(lambda: company.letter_states(second["letter"]), "an open letter")
    states = {one["letter"]: company.letter_states(one["letter"]) for one in (first, second)}
    assert states == {first["letter"]: ["OPEN", "REPLAYING", "RESOLVED"], second["letter"]: ["OPEN"]}
    assert [call["status"] for call in company.calls(order)] == [422, 422]
    assert company.invoices(order) == []
