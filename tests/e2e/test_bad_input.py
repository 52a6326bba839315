"""What the world sends wrongly ends as one dead letter with all that a person needs, and holds up nobody."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import pytest
from handrail.local.ports import free_port
from handrail_demo.plain import PlainContracts

pytestmark = pytest.mark.kafka
Company = Any

CONTRACT = "orders/order-accepted.v1"
MIB = 1_048_576
OVER_THE_LIMIT = 34_000_001
Spoil = Callable[[bytes], bytes | None]
Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True)
class Bad:
    """One bad record: fields other than an order's, what is done to its bytes, its headers; and what its letter says."""

    failure_class: str
    says: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    spoil: Spoil = lambda value: value
    headers: Headers = ()
    field: str | None = None
    kept: bool = True


def broken(name: str, value: Any, says: str = "") -> Bad:
    return Bad("contract", says or name, {name: value}, field=name)


BAD: Mapping[str, Bad] = {
    "no value": Bad("poison", "no value", spoil=lambda value: None),
    "empty": Bad("poison", "", spoil=lambda value: b""),
    "other bytes": Bad("poison", "", spoil=lambda value: b'{"order_id": "1", "revision": 1}'),
    "torn": Bad("poison", "", spoil=lambda value: value[:-3]),
    "too long": Bad("poison", "", spoil=lambda value: value + b"\x00"),
    "endless number": Bad("poison", "", spoil=lambda value: value[:5] + b"\xff" * 40),
    "unknown schema": Bad(
        "contract", str(0x3FFFFFFF), spoil=lambda value: value[:1] + (0x3FFFFFFF).to_bytes(4, "big") + value[5:]
    ),
    "more than 1 MiB": Bad("poison", "", {"customer_name": "x" * (MIB + 1)}),
    "more than a letter can keep": Bad(
        "poison", "are too many for a dead letter: they stay at ", {"customer_name": "x" * 1_280_000}, kept=False
    ),
    "33 headers": Bad("contract", "33 headers; at most 32", headers=tuple((f"h{n}", b"") for n in range(33))),
    "9 KiB of headers": Bad("contract", "bytes of headers", headers=(("h", b"x" * 9 * 1024),)),
    "no order": broken("order_id", ""),
    "endless order": broken("order_id", "9" * 65),
    "revision 0": broken("revision", 0),
    "no customer": broken("customer_id", ""),
    "nothing to pay": broken("total_minor", 0),
    "less than nothing to pay": broken("total_minor", -5),
    "no currency": broken("currency", ""),
    "no such currency": broken("currency", "eu"),
    "no day": broken("ordered_on", ""),
    "no such day": broken("ordered_on", "yesterday"),
}
ODD_BUT_GOOD: Mapping[str, Headers] = {
    "a replay header from outside": (("hr-replay", b"\x01" * 60), ("hr", b"\xff\xff"), ("ce_id", b"\xff")),
    "a context that is none": (("traceparent", b"00-zz-11-01"), ("tracestate", b"\xff" * 100)),
    "32 headers": tuple((f"h{n}", b"x") for n in range(32)),
}


@dataclass(frozen=True)
class Sent:
    """What was published: where each bad record stands and its bytes, and its good neighbours."""

    places: Mapping[str, tuple[str, int, int]]
    values: Mapping[str, bytes | None]
    odd: Mapping[str, dict[str, Any]]
    neighbours: list[dict[str, Any]]


@pytest.fixture(scope="module")
def sent(running: Company) -> Sent:
    """All at once, each bad record between two good ones of the same key, so of the same partition."""
    records, neighbours, values = [], [], {}
    world = PlainContracts(running.project / "contracts")  # it checks nothing
    for name, bad in BAD.items():
        order = running.order()
        after = order | {"revision": 2}
        spoilt = bad.spoil(world.encode(CONTRACT, order | {"revision": 3} | bad.fields))
        values[name] = spoilt
        good = [(order["order_id"], world.encode(CONTRACT, one), ()) for one in (order, after)]
        records += [good[0], (order["order_id"], spoilt, bad.headers), good[1]]
        neighbours += [order, after]
    odd = {name: running.order() for name in ODD_BUT_GOOD}
    for name, order in odd.items():
        records.append((order["order_id"], world.encode(CONTRACT, order), ODD_BUT_GOOD[name]))
    acknowledged = running.publish_raw(*records)
    places = {
        name: (one.topic, one.partition, one.offset)
        for name, one in zip(BAD, acknowledged[1 : 3 * len(BAD) : 3], strict=True)
    }
    return Sent(places, values, odd, neighbours)


def letters_at(company: Company, place: tuple[str, int, int]) -> list[dict[str, Any]]:
    found = [one.value for one in company.onlooker.seen("dead-letters") if one.value]
    return [one for one in found if (one["topic"], one["partition"], one["offset"]) == place]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_one_dead_letter_with_class_field_reason_and_bytes(
    company: Company, sent: Sent, name: str
) -> None:
    bad, place = BAD[name], sent.places[name]
    letter = company.onlooker.wait(lambda: letters_at(company, place), f"a letter about {name}")[0]
    assert (letter["failure_class"], letter["field"]) == (bad.failure_class, bad.field), letter["message"]
    assert bad.says in letter["message"]
    raw = sent.values[name]
    assert letter["value"] == (raw if bad.kept else None)
    assert letter["payload_hash"] == blake2b(raw or b"", digest_size=16).hexdigest()
    assert tuple((one["name"], one["value"]) for one in letter["headers"]) == bad.headers
    assert letter["stage"] == "order-to-invoice.ingest.orders.order-accepted"
    assert (letter["generation"], letter["attempts"], letter["run"]) == (1, 1, None)
    company.onlooker.wait(lambda: company.letter_states(letter["letter"]), "its state")
    assert company.letter_states(letter["letter"]) == ["OPEN"]
    assert len(letters_at(company, place)) == 1


def test_good_neighbours_of_bad_records_go_through(company: Company, sent: Sent) -> None:
    company.wait_for("done", *sent.neighbours)
    assert [len(company.invoices(order)) for order in sent.neighbours] == [1] * len(sent.neighbours)


@pytest.mark.parametrize("name", ODD_BUT_GOOD)
def test_odd_headers_steer_nothing(company: Company, sent: Sent, name: str) -> None:
    order = sent.odd[name]
    company.wait_for("done", order)
    assert len(company.invoices(order)) == 1
    assert company.letters(order) == []


def test_without_kafka_every_command_that_needs_it_says_so_soon(company: Company, sent: Sent, tmp_path: Any) -> None:
    review = company.order(total_minor=OVER_THE_LIMIT)
    company.publish(review)
    (task,) = company.onlooker.wait(lambda: company.tasks(review), "a task")
    letter = company.onlooker.wait(lambda: letters_at(company, sent.places["no order"]), "a letter")[0]
    company.wait_told(lambda rows: any(row["task"] == task["task"] for row in rows), "tasks", "list")
    company.wait_told(lambda rows: any(row["letter"] == letter["letter"] for row in rows), "dlq", "list")
    file = tmp_path / "orders.jsonl"
    file.write_text(json.dumps(company.order()))
    commands = (
        ("publish", CONTRACT, str(file)),
        ("topics", "provision"),
        ("dlq", "replay", letter["letter"]),
        ("dlq", "discard", letter["letter"], "--reason", "a test"),
        ("tasks", "approve", task["task"]),
        ("tasks", "reject", task["task"], "--reason", "a test"),
        ("tasks", "done", task["task"]),
    )
    nowhere = f"127.0.0.1:{free_port()}"

    def run(command: tuple[str, ...]) -> tuple[Any, float]:
        started = time.monotonic()
        return company.handrail(*command, HANDRAIL_BOOTSTRAP=nowhere), time.monotonic() - started

    with ThreadPoolExecutor(len(commands)) as pool:
        for command, (ended, seconds) in zip(commands, pool.map(run, commands), strict=True):
            told = f"{' '.join(command)}: {ended.returncode} after {seconds:.1f} s: {ended.stdout}{ended.stderr}"
            assert ended.returncode == 2, told
            assert "does not answer" in ended.stderr, told
            assert nowhere in ended.stderr, told
            assert "Traceback" not in ended.stderr, told
            assert seconds < 60.0, (
                told
            )  # seven at once, on a machine that may be busy; one alone takes 8 s and its start
    assert company.letter_states(letter["letter"]) == ["OPEN"]
    assert company.state(review) == "waiting"


def test_publishing_to_a_topic_that_is_not_there_creates_nothing(company: Company, tmp_path: Any) -> None:
    file = tmp_path / "orders.jsonl"
    file.write_text(json.dumps(company.order()))
    refused = company.handrail("publish", CONTRACT, str(file), "--topic", "ingest.orders.order-acepted")
    assert refused.returncode == 2
    assert "has no topic ingest.orders.order-acepted. Topics there: ingest.orders.order-accepted." in refused.stderr
    listed = company.told("topics", "list")
    assert "ingest.orders.order-acepted" not in {row["name"] for row in listed}
