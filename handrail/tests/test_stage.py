"""The stage on the in-memory log: each test is a promise of docs/guarantees.md."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.errors import Failure, Fenced
from handrail.message import Due, Finished, GiveUp, Message, Output, Relay, Run
from handrail.pending import View
from handrail.recovery import Policy
from handrail.spec import Spec
from handrail.testing.driver import StageDriver
from handrail.testing.memory import MemoryBroker

ORDER = {
    "order_id": "7",
    "revision": 1,
    "customer_id": "c1",
    "customer_name": None,
    "segment": "unknown",
    "account_balance_minor": 0,
    "total_minor": 500,
    "currency": "EUR",
    "ordered_on": "2026-11-21",
}
RUN = Run("01234567-89ab-8def-8123-456789abcdef", "order-to-invoice", 1)
TYPE = "orders/order-accepted.v1"
CONTRACTS = Contracts.load(Path(__file__).parents[2] / "contracts")


def copy(message: Message | Due | Finished, view: View) -> Iterable[Output | Relay | GiveUp]:
    """Sends each order on, and counts the key's orders in a table."""
    assert isinstance(message, Message)
    row = view.get("runs", message.key)
    count = (row["sequence"] if row else 0) + 1
    view.put("runs", message.key, run_row(message.key, count))
    yield Output("out", TYPE, message.key, value=message.value, run=RUN)


def run_row(route: str, sequence: int) -> dict[str, Any]:
    return {
        "run": RUN.id, "flow": RUN.flow, "version": 1, "route": route, "state": "acting", "step": None, "step_index": 0,
        "revision": 1, "sequence": sequence, "event": b"", "request": b"", "decision": None, "responses": {}, "task": None,
        "dedupe": {}, "first_failure_at": None, "started_at": 0, "updated_at": 0,
    }  # fmt: skip


def spec(handler: Any = copy, **given: Any) -> Spec:
    return Spec(
        name="flow.transform",
        inbox="flow.transform",
        accepts=frozenset({TYPE}),
        handler=handler,
        partitions=lambda topic: 2 if topic in ("out", "dead-letters", "recovery.letters.replay") else 1,
        knows=lambda flow, version: flow == RUN.flow and version == 1,
        tables={"runs": "handrail/run-state.v1"},
        **given,
    )


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def drive(broker: MemoryBroker, tmp_path: Path) -> Any:
    drivers: list[StageDriver] = []

    def start(handler: Any = copy, home: str = "home", **given: Any) -> StageDriver:
        driver = StageDriver(broker, spec(handler, **given), CONTRACTS, tmp_path / home)
        drivers.append(driver)
        return driver

    yield start
    for driver in drivers:
        driver.crash()


def order(**fields: Any) -> bytes:
    return CONTRACTS.encode(TYPE, ORDER | fields)


def test_a_message_is_handled_once_and_sent_on_with_an_id_that_repeats(drive: Any, broker: MemoryBroker) -> None:
    one = drive()
    one.send(TYPE, "7", order(), id="a")
    one.drain()
    (sent,) = broker.records("out")
    assert dict(sent.headers)["ce_type"] == TYPE.encode()
    two = drive(home="elsewhere")
    broker.offsets.clear()
    two.drain()
    assert len(broker.records("out")) == 1, "the marks stop it although the position was lost"


def test_a_duplicate_is_dropped_inside_one_batch_and_across_batches(drive: Any, broker: MemoryBroker) -> None:
    stage = drive()
    for _ in range(2):
        stage.send(TYPE, "7", order(), id="a")
    stage.drain()
    stage.send(TYPE, "7", order(), id="a")
    stage.drain()
    assert len(broker.records("out")) == 1
    assert stage.stage.counters["duplicates"] == 2


def test_rows_are_seen_by_the_next_message_of_the_same_batch_and_after_a_crash(
    drive: Any, broker: MemoryBroker
) -> None:
    stage = drive()
    stage.send(TYPE, "7", order(), id="a")
    stage.send(TYPE, "7", order(revision=2), id="b")
    stage.drain()
    stage.crash()
    again = drive(home="another disk")
    again.send(TYPE, "7", order(revision=3), id="c")
    again.drain()
    row = CONTRACTS.decode(broker.records("flow.transform.state")[-1].value or b"")[1]
    assert row["sequence"] == 3


@pytest.mark.parametrize("failure", ["aborted", "unknown"])
def test_after_a_failed_or_unknown_commit_nothing_is_lost_and_nothing_happens_twice(
    drive: Any, broker: MemoryBroker, failure: str
) -> None:
    stage = drive()
    stage.drain()
    stage.send(TYPE, "7", order(), id="a")
    stage.log.fail_next = failure
    stage.drain()
    assert len(broker.records("out")) == 1
    assert stage.stage.counters["aborted"] == 1
    assert broker.offsets["flow.transform", 0] == 1


@pytest.mark.parametrize(
    ("value", "error_class"),
    [(b"", "poison"), (b"\x01nonsense", "poison"), (b"\x00\x00\x00\x00\x07x", "contract"), (None, "poison")],
)
def test_bytes_that_do_not_decode_end_as_a_dead_letter_with_the_raw_bytes(
    drive: Any, broker: MemoryBroker, value: bytes | None, error_class: str
) -> None:
    stage = drive()
    stage.send(TYPE, "7", value, id="a")
    stage.send(TYPE, "7", order(), id="b")
    stage.drain()
    (letter,) = stage.letters()
    assert (letter["value"], letter["failure_class"]) == (value, error_class)
    assert len(broker.records("out")) == 1, "the stage goes on"


def test_a_transient_failure_is_delayed_and_holds_back_its_own_key_only(drive: Any, broker: MemoryBroker) -> None:
    down = {"7"}

    def handler(message: Message, view: View) -> Iterable[Output]:
        if message.key in down:
            raise Failure("transient", "down")
        yield Output("out", TYPE, message.key, value=message.value)

    stage = drive(handler)
    stage.send(TYPE, "7", order(), id="a")
    stage.send(TYPE, "7", order(revision=2), id="b")
    stage.send(TYPE, "8", order(order_id="8"), id="c")
    stage.drain()
    assert [record.key for record in broker.records("out")] == [b"8"]
    stage.clock.advance(1_999)
    down.clear()
    stage.drain()
    assert len(broker.records("out")) == 1, "never before its due time"
    stage.clock.advance(500)
    stage.drain()
    sevens = [record for record in broker.records("out") if record.key == b"7"]
    assert [CONTRACTS.decode(record.value or b"")[1]["revision"] for record in sevens] == [1, 2], "in order"
    assert stage.stage.waiting() == 0


def test_what_waits_survives_a_crash_and_keeps_its_attempts(drive: Any, broker: MemoryBroker) -> None:
    def handler(message: Message, view: View) -> Iterable[Output]:
        raise Failure("transient", "down")

    stage = drive(handler, policy=Policy.from_config({"transient": {"from": 1000, "to": 1000, "times": 2}}))
    stage.send(TYPE, "7", order(), id="a")
    stage.drain()
    stage.crash()
    again = drive(handler, home="new", policy=Policy.from_config({"transient": {"from": 1000, "to": 1000, "times": 2}}))
    again.clock.advance(2_000)
    again.drain()
    assert again.letters() == []
    again.clock.advance(2_000)
    again.drain()
    (letter,) = again.letters()
    assert letter["attempts"] == 3
    assert letter["failure_class"] == "transient"


def test_a_replay_passes_once_and_only_by_its_own_generation(drive: Any, broker: MemoryBroker) -> None:
    broken = True

    def handler(message: Message, view: View) -> Iterable[Output]:
        if broken:
            raise Failure("business", "no")
        yield Output("out", TYPE, message.key, value=message.value)

    stage = drive(handler)
    stage.send(TYPE, "7", order(), id="a")
    stage.drain()
    (letter,) = stage.letters()
    assert letter["generation"] == 1
    stage.replay(letter, generation=2)
    stage.drain()
    assert len(stage.letters()) == 1, "a replay of another generation is dropped"
    stage.replay(letter)
    stage.drain()
    assert stage.letters()[-1]["generation"] == 2, "it failed again: the same letter, next generation"
    assert stage.letters()[-1]["letter"] == letter["letter"]
    broken = False
    stage.replay(stage.letters()[-1])
    stage.replay(stage.letters()[-1])
    stage.drain()
    assert len(broker.records("out")) == 1
    (report,) = broker.records("recovery.letters.replay")
    assert CONTRACTS.decode(report.value or b"")[1]["order"] == "resolved"


def test_a_dead_letter_is_not_handled_again_when_its_original_comes_again(drive: Any, broker: MemoryBroker) -> None:
    def handler(message: Message, view: View) -> Iterable[Output]:
        raise Failure("business", "no")

    stage = drive(handler)
    stage.send(TYPE, "7", order(), id="a")
    stage.send(TYPE, "7", order(), id="a")
    stage.drain()
    assert len(stage.letters()) == 1


def test_a_handler_that_raises_leaves_no_row_behind(drive: Any, broker: MemoryBroker) -> None:
    def handler(message: Message, view: View) -> Iterable[Output]:
        view.put("runs", message.key, run_row(message.key, 1))
        yield Output("out", TYPE, message.key, value=message.value)
        raise Failure("business", "no")

    stage = drive(handler)
    stage.send(TYPE, "7", order(), id="a")
    stage.drain()
    assert broker.records("out") == []
    assert not [record for record in broker.records("flow.transform.state") if (record.key or b"").startswith(b"t/")]


def test_giving_up_keeps_what_the_handler_wrote_and_makes_a_dead_letter(drive: Any, broker: MemoryBroker) -> None:
    def handler(message: Message, view: View) -> Iterable[Output | GiveUp]:
        view.put("runs", message.key, run_row(message.key, 1))
        yield Output("out", TYPE, message.key, value=message.value)
        yield GiveUp("business", "credit refused", step="invoice")

    stage = drive(handler)
    stage.send(TYPE, "7", order(), id="a", run=RUN)
    stage.drain()
    (letter,) = stage.letters()
    assert (letter["run"], letter["step"], letter["message"]) == (RUN.id, "invoice", "credit refused")
    assert len(broker.records("out")) == 1


def test_an_output_that_is_too_large_is_a_contract_failure_of_its_input(drive: Any, broker: MemoryBroker) -> None:
    stage = drive(max_output_bytes=300)
    stage.send(TYPE, "7", order(customer_name="x" * 400), id="a")
    stage.send(TYPE, "7", order(), id="b")
    stage.drain()
    (letter,) = stage.letters()
    assert letter["failure_class"] == "contract"
    assert len(broker.records("out")) == 1


def test_a_flow_version_that_this_process_does_not_have_pauses_the_partition_and_loses_nothing(
    drive: Any, broker: MemoryBroker
) -> None:
    stage = drive()
    stage.send(TYPE, "7", order(), id="a", run=RUN)
    stage.send(TYPE, "7", order(), id="b", run=Run(RUN.id, RUN.flow, 2))
    stage.send(TYPE, "7", order(), id="c", run=RUN)
    stage.drain()
    assert len(broker.records("out")) == 1
    assert stage.letters() == []
    assert broker.offsets["flow.transform", 0] == 1
    assert not stage.stage.ready()


def test_a_timer_comes_when_it_is_due_and_survives_a_crash(drive: Any, broker: MemoryBroker) -> None:
    def handler(given: Message | Due | Finished, view: View) -> Iterable[Output]:
        match given:
            case Message():
                view.set_timer("wake", given.key, view.now + 5_000, given.value)
            case Due():
                yield Output("out", TYPE, given.key, value=given.payload)

    stage = drive(handler)
    stage.send(TYPE, "7", order(), id="a")
    stage.drain()
    stage.crash()
    again = drive(handler, home="new")
    again.clock.advance(4_999)
    again.drain()
    assert broker.records("out") == []
    again.clock.advance(1)
    again.drain()
    again.clock.advance(60_000)
    again.drain()
    assert len(broker.records("out")) == 1


def test_a_timer_whose_handler_fails_comes_again(drive: Any, broker: MemoryBroker) -> None:
    broken = True

    def handler(given: Message | Due | Finished, view: View) -> Iterable[Output]:
        match given:
            case Message():
                view.set_timer("wake", given.key, view.now, given.value)
            case Due():
                if broken:
                    raise RuntimeError("oops")
                yield Output("out", TYPE, given.key, value=given.payload)

    stage = drive(handler)
    stage.send(TYPE, "7", order(), id="a")
    stage.drain()
    broken = False
    stage.clock.advance(10_000)
    stage.drain()
    assert len(broker.records("out")) == 1


def test_headers_from_outside_can_not_pass_for_a_replay_or_for_ours(drive: Any, broker: MemoryBroker) -> None:
    stage = drive(public=True)
    forged = (("ce_id", b"forged"), ("hr", b"garbage"), ("hr-replay", b"garbage"), ("traceparent", b"nonsense"))
    broker.publish("flow.transform", "7", order(), forged)
    stage.drain()
    (sent,) = broker.records("out")
    assert "forged" not in str(sent.headers)
    assert stage.letters() == []


def test_too_many_headers_are_a_dead_letter(drive: Any, broker: MemoryBroker) -> None:
    stage = drive(public=True)
    broker.publish("flow.transform", "7", order(), tuple((f"h{n}", b"") for n in range(33)))
    stage.drain()
    (letter,) = stage.letters()
    assert letter["failure_class"] == "contract"
    assert "33 headers" in letter["message"]


def test_a_newer_process_fences_an_older_one(drive: Any, broker: MemoryBroker) -> None:
    old = drive()
    old.drain()
    drive(home="new").drain()
    old.send(TYPE, "7", order(), id="a")
    with pytest.raises(Fenced):
        old.drain()
