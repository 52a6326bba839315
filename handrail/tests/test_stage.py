"""The stage on the in-memory log: each test is a promise of docs/guarantees.md."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.crashes import LIMIT, Crashes
from handrail.envelope import Replay
from handrail.errors import Failure, Fenced
from handrail.log import Outgoing
from handrail.message import Due, Finished, GiveUp, Message, Output, Relay, Run
from handrail.pending import View
from handrail.recovery import Policy
from handrail.spec import Spec
from handrail.stage import BATCH_LIMIT_MS, TELL_MS
from handrail.testing.driver import StageDriver
from handrail.testing.memory import MemoryBroker, MemoryLog
from handrail.testing.transactions import TIMEOUT_MS

from handrail import envelope

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
        tables={"runs": "handrail/run-state.v1"},
        **({"knows": lambda flow, version: flow == RUN.flow and version == 1} | given),
    )


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def drive(broker: MemoryBroker, tmp_path: Path) -> Any:
    drivers: list[StageDriver] = []

    def start(
        handler: Any = copy, home: str = "home", worker: Any = None, pause: Any = None, **given: Any
    ) -> StageDriver:
        driver = StageDriver(broker, spec(handler, **given), CONTRACTS, tmp_path / home, worker=worker, pause=pause)
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
    broker.offsets.clear()
    two = drive(home="elsewhere")
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
    assert stage.stage.counters["aborted.broker"] == 1
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


def once_down(error: str = "transient") -> tuple[set[str], Any]:
    """A handler that fails for the keys in the set."""
    down: set[str] = set()

    def handler(message: Message, view: View) -> Iterable[Output]:
        if message.key in down:
            raise Failure(error, "down")
        yield Output("out", TYPE, message.key, value=message.value)

    return down, handler


@pytest.mark.parametrize("forged", [b"garbage", envelope.write_replay(Replay("l" * 36, 1, "elsewhere", 0, 3))[1]])
def test_a_forged_replay_header_is_still_forged_after_a_retry(drive: Any, broker: MemoryBroker, forged: bytes) -> None:
    down, handler = once_down()
    down.add("7")
    stage = drive(handler, public=True)
    broker.publish("flow.transform", "7", order(), (("hr-replay", forged),))
    stage.drain()
    down.clear()
    stage.clock.advance(10_000)
    stage.drain()
    assert len(broker.records("out")) == 1
    assert broker.records("recovery.letters.replay") == [], "nobody outside can close a dead letter"


def test_a_record_that_is_too_large_for_a_dead_letter_leaves_its_place_and_hash_there(
    drive: Any, broker: MemoryBroker
) -> None:
    stage = drive(public=True)
    broker.publish("flow.transform", "7", bytes(3_000_000))
    broker.publish("flow.transform", "8", order(order_id="8"))
    stage.drain()
    (letter,) = stage.letters()
    assert (letter["value"], letter["topic"], letter["offset"]) == (None, "flow.transform", 0)
    assert "3000000 bytes" in letter["message"]
    assert max(len(record.value or b"") for record in broker.records("dead-letters")) < 100_000
    assert [record.key for record in broker.records("out")] == [b"8"]


@pytest.mark.parametrize("bomb", [(bytes(3_000_000), ()), (b"", (("h", bytes(3_000_000)),))])
def test_a_record_that_is_too_large_to_wait_does_not_wait_behind_its_key(
    drive: Any, broker: MemoryBroker, bomb: tuple[bytes, Any]
) -> None:
    down, handler = once_down()
    down.add("7")
    stage = drive(handler, public=True)
    broker.publish("flow.transform", "7", order())
    broker.publish("flow.transform", "7", *bomb)
    stage.drain()
    assert stage.stage.waiting() == 1
    assert len(stage.letters()) == 1


def test_records_without_a_key_do_not_wait_for_each_other(drive: Any, broker: MemoryBroker) -> None:
    broken = {"1"}

    def handler(message: Message, view: View) -> Iterable[Output]:
        if message.body["order_id"] in broken:
            raise Failure("transient", "down")
        yield Output("out", TYPE, "k", value=message.value)

    stage = drive(handler, public=True)
    broken.add("2")
    for n in ("1", "2"):
        broker.publish("flow.transform", "", order(order_id=n))
    stage.drain()
    broken.discard("2")
    stage.clock.advance(10_000)
    stage.drain()
    assert len(broker.records("out")) == 1


def test_a_waiting_record_of_a_flow_version_that_this_process_does_not_have_is_not_tried(
    drive: Any, broker: MemoryBroker
) -> None:
    down, handler = once_down()
    down.add("7")
    first = drive(handler)
    first.send(TYPE, "7", order(), id="a", run=RUN)
    first.drain()
    first.crash()
    older = drive(handler, knows=lambda flow, version: False)
    older.clock.advance(10_000)
    older.drain()
    assert older.stage.counters["failed.transient"] == 0
    assert not older.stage.ready()
    older.crash()
    down.clear()
    again = drive(handler)
    again.clock.advance(10_000)
    again.drain()
    assert len(broker.records("out")) == 1


def test_a_held_partition_with_something_due_does_not_keep_the_processor_busy(drive: Any, broker: MemoryBroker) -> None:
    down, handler = once_down()
    down.add("7")
    stage = drive(handler)
    stage.send(TYPE, "7", order(), id="a", run=RUN)
    stage.drain()
    stage.send(TYPE, "8", order(), id="b", run=Run(RUN.id, RUN.flow, 2))
    stage.drain()
    stage.clock.advance(60_000)
    stage.log.waited.clear()
    stage.stage.step()
    assert stage.log.waited == [0.5]


def test_a_held_partition_is_behind_as_far_as_what_it_is_held_before(drive: Any, broker: MemoryBroker) -> None:
    """What was read with it and is not taken counts, and the older it gets, the less of the window is left."""
    stage = drive(lambda *_: (), batch=10)
    stage.send(TYPE, "7", order(), id="a", run=Run(RUN.id, RUN.flow, 2))
    for n in range(3):
        stage.send(TYPE, "7", order(), id=str(n))
    stage.drain()
    stage.clock.advance(60_000)
    stage.stage.step()
    vitals = stage.stage.vitals
    assert vitals.lag == {0: 4}
    assert vitals.behind >= 60_000
    assert vitals.headroom == stage.stage.spec.window_ms - vitals.behind
    assert any("is paused" in reason for reason in vitals.reasons())


def test_a_stage_is_not_ready_before_its_group_counts_it_in(drive: Any, broker: MemoryBroker) -> None:
    stage = drive(lambda *_: ())
    other = MemoryLog(broker, "flow.transform", "flow.transform", ordinal=1)
    other.poll(0, 0.0)
    stage.stage.step()  # the other has to let go of its share before the group is whole
    assert stage.stage.vitals.reasons() == ("is not in its group: it joins, or Kafka does not answer",)
    other.poll(0, 0.0)
    stage.clock.advance(TELL_MS)
    stage.stage.step()
    assert stage.stage.vitals.reasons() == ()


class OneResult:
    """A worker whose jobs end at once."""

    def __init__(self) -> None:
        self.results: list[tuple[int, Finished]] = []
        self.started: list[str] = []

    def start(self, partition: int, key: str, job: Any) -> None:
        self.started.append(job)
        self.results.append((partition, Finished(key, job)))

    def finished(self) -> list[tuple[int, Finished]]:
        taken, self.results = self.results, []
        return taken

    def busy(self) -> bool:
        return False

    def room(self) -> int:
        return 1_000

    def forget(self, partition: int) -> None:
        self.results = [each for each in self.results if each[0] != partition]

    def close(self) -> None:
        """Nothing to stop."""


def test_outputs_of_a_result_are_sent_with_the_position_so_that_they_are_fenced(
    drive: Any, broker: MemoryBroker
) -> None:
    def handler(given: Message | Due | Finished, view: View) -> Iterable[Output]:
        match given:
            case Message():
                view.start(given.key, given.value)
            case Finished():
                yield Output("out", TYPE, given.key, value=given.result)

    stage = drive(handler, worker=OneResult())
    stage.send(TYPE, "7", order(), id="a")
    stage.drain()
    assert len(broker.records("out")) == 1
    assert all(transaction.offsets == {0: 1} for transaction in stage.log.transactions)


def test_a_job_that_follows_a_job_is_started_although_nothing_else_was_written(
    drive: Any, broker: MemoryBroker
) -> None:
    def handler(given: Message | Due | Finished, view: View) -> Iterable[Output]:
        match given:
            case Message():
                view.start(given.key, "call")
            case Finished(result="call"):
                view.start(given.key, "verify")
        return ()

    worker = OneResult()
    stage = drive(handler, worker=worker)
    stage.send(TYPE, "7", order(), id="a")
    stage.drain()
    assert worker.started == ["call", "verify"]


def test_a_result_for_a_partition_that_went_away_is_not_given_to_its_next_owner(
    drive: Any, broker: MemoryBroker
) -> None:
    seen: list[Any] = []

    def handler(given: Message | Due | Finished, view: View) -> Iterable[Output]:
        match given:
            case Message():
                view.start(given.key, "call")
            case Finished():
                seen.append(given.result)
                view.set_timer("x", given.key, view.now + 1)
        return ()

    worker = OneResult()
    stage = drive(handler, worker=worker)
    stage.send(TYPE, "7", order(), id="a")
    stage.drain(until=lambda: bool(worker.started))
    stage.log.fail_next = "aborted"
    stage.stage.step()
    assert seen == ["call"]
    stage.log.rebalance()
    stage.drain()
    assert seen == ["call"]


def test_results_come_again_after_an_abort(drive: Any, broker: MemoryBroker) -> None:
    def handler(given: Message | Due | Finished, view: View) -> Iterable[Output]:
        match given:
            case Message():
                view.start(given.key, given.value)
            case Finished():
                yield Output("out", TYPE, given.key, value=given.result)

    worker = OneResult()
    stage = drive(handler, worker=worker)
    stage.send(TYPE, "7", order(), id="a")
    stage.drain(until=lambda: bool(worker.started))
    stage.log.fail_next = "aborted"
    stage.drain()
    assert stage.stage.counters["aborted.broker"] == 1
    assert len(broker.records("out")) == 1


@pytest.mark.parametrize("failure", ["aborted", "unknown"])
def test_a_timer_and_a_retry_of_a_batch_that_was_not_committed_come_again_and_only_once(
    drive: Any, broker: MemoryBroker, failure: str
) -> None:
    down: set[str] = {"8"}

    def handler(given: Message | Due | Finished, view: View) -> Iterable[Output]:
        match given:
            case Message(key="7"):
                view.set_timer("wake", given.key, view.now + 5_000, given.value)
            case Message() if given.key in down:
                raise Failure("transient", "down")
            case Message():
                yield Output("out", TYPE, given.key, value=given.value)
            case Due():
                yield Output("out", TYPE, given.key, value=given.payload)

    stage = drive(handler)
    stage.send(TYPE, "7", order(), id="a")
    stage.send(TYPE, "8", order(), id="b")
    stage.drain()
    down.clear()
    stage.clock.advance(10_000)
    stage.log.fail_next = failure
    stage.drain()
    assert sorted(record.key or b"" for record in broker.records("out")) == [b"7", b"8"]
    assert stage.stage.waiting() == 0


def test_the_positions_are_read_before_the_tables_are_caught_up(drive: Any, broker: MemoryBroker) -> None:
    """Else a zombie's transaction could end in between: a position without its marks would let duplicates pass."""
    stage = drive()
    stage.drain()
    calls = stage.log.calls
    assert calls.index("committed") < calls.index("bounds")


def test_commits_that_fail_one_after_the_other_do_not_spin(drive: Any, broker: MemoryBroker) -> None:
    waits: list[float] = []
    stage = drive(pause=waits.append)
    stage.drain()
    stage.send(TYPE, "7", order(), id="a")
    for _ in range(4):
        stage.log.fail_next = "aborted"
        stage.stage.step()
    stage.drain()
    assert len(broker.records("out")) == 1
    assert waits == [0.1, 0.2, 0.4]


def test_a_rewind_waits_for_a_transaction_that_hides_what_was_committed_until_the_broker_ends_it(
    drive: Any, broker: MemoryBroker
) -> None:
    stage = drive()
    stage.drain()
    stage.send(TYPE, "7", order(), id="a")
    broker.producer("somebody else").produce(Outgoing(f"{stage.spec.name}.state", 0, b"x" * 8, b"x" * 8))
    stage.log.fail_next = "aborted"
    began = broker.now
    stage.stage.step()
    assert broker.now - began > TIMEOUT_MS
    assert stage.stage.counters["aborted.broker"] == 1
    assert stage.stage.counters["aborted.restore"] > 1
    stage.drain()
    assert len(broker.records("out")) == 1


def test_where_the_body_says_what_a_message_is_its_duplicates_are_found_whatever_their_headers(
    drive: Any, broker: MemoryBroker
) -> None:
    stage = drive(public=True, identify=lambda message: str(message.body["order_id"]))
    broker.publish("flow.transform", "7", order())
    broker.publish("flow.transform", "other key", order(total_minor=9))
    broker.publish("flow.transform", "8", order(order_id="8"))
    broker.publish("flow.transform", "9", b"nonsense")
    stage.drain()
    assert len(broker.records("out")) == 2
    (letter,) = stage.letters()
    assert letter["failure_class"] == "poison"


@pytest.mark.parametrize("what", ["row", "timer"])
def test_a_key_that_no_table_can_take_is_a_contract_failure_and_not_a_crash_after_the_commit(
    drive: Any, broker: MemoryBroker, what: str
) -> None:
    def handler(given: Message | Due | Finished, view: View) -> Iterable[Output]:
        if what == "row":
            return copy(given, view)
        assert isinstance(given, Message)
        view.set_timer("wake", given.key, view.now + 1)
        return ()

    stage = drive(handler)
    stage.send(TYPE, "x" * 600, order(), id="a")
    stage.send(TYPE, "7", order(), id="b")
    stage.drain()
    (letter,) = stage.letters()
    assert letter["failure_class"] == "contract"
    assert "600 bytes" in letter["message"]


def test_what_a_replay_sends_has_ids_of_its_own_and_repeats_them_after_an_unknown_commit(
    drive: Any, broker: MemoryBroker
) -> None:
    refused = True

    def handler(message: Message, view: View) -> Iterable[Output | GiveUp]:
        yield Output("out", TYPE, message.key, value=message.value)
        if refused:
            yield GiveUp("business", "no")

    stage = drive(handler)
    stage.send(TYPE, "7", order(), id="a")
    stage.drain()
    refused = False
    stage.replay(stage.letters()[0])
    stage.log.fail_next = "aborted"
    stage.drain()
    ids = [dict(record.headers)["ce_id"] for record in broker.records("out")]
    assert len(ids) == len(set(ids)) == 2


def test_the_watchdog_sees_that_a_large_batch_goes_on(drive: Any, broker: MemoryBroker) -> None:
    since: list[float] = []

    def handler(message: Message, view: View) -> Iterable[Output]:
        since.append(stage.stage.phase_since)
        return ()

    stage = drive(handler)
    for n in range(3):
        stage.send(TYPE, "7", order(), id=str(n))
    stage.drain()
    assert len(set(since)) == 3, "it is the time of one message that must be short, not that of a batch"


def test_giving_up_with_a_class_that_there_is_not_is_a_bug_and_not_a_crash(drive: Any, broker: MemoryBroker) -> None:
    def handler(message: Message, view: View) -> Iterable[GiveUp]:
        yield GiveUp("bad luck", "no")

    stage = drive(handler)
    stage.send(TYPE, "7", order(), id="a")
    stage.drain()
    assert stage.letters()[0]["failure_class"] == "bug"


def test_a_replay_that_is_discarded_is_reported_so_that_its_letter_does_not_stay_replaying(
    drive: Any, broker: MemoryBroker
) -> None:
    error = Failure("business", "no")

    def handler(message: Message, view: View) -> Iterable[Output]:
        raise error

    policy = Policy.from_config({"transient": {"times": 0, "then": "discard"}})
    stage = drive(handler, policy=policy)
    stage.send(TYPE, "7", order(), id="a")
    stage.drain()
    error = Failure("transient", "down")
    stage.replay(stage.letters()[0])
    stage.drain()
    (report,) = broker.records("recovery.letters.replay")
    assert CONTRACTS.decode(report.value or b"")[1]["order"] == "resolved"


def killed_with_in_hand(folder: Path, key: str, times: int) -> None:
    """As a process leaves it that was killed: nothing was put down."""
    for _ in range(times):
        Crashes(folder).hold(key)


def test_a_record_that_ended_the_process_three_times_is_a_dead_letter_undecoded_and_a_replay_of_it_is_tried(
    drive: Any, broker: MemoryBroker, tmp_path: Path
) -> None:
    one = drive()
    one.send(TYPE, "7", order(), id="deadly")
    one.send(TYPE, "8", order(), id="harmless")
    one.crash()
    killed_with_in_hand(tmp_path / "home" / "flow.transform" / "crashes-0", "flow.transform/0/0#0", LIMIT)
    again = drive()
    again.drain()
    (letter,) = again.letters()
    assert (letter["failure_class"], letter["value"]) == ("poison", order())
    assert "3 times" in letter["message"]
    assert [record.key for record in broker.records("out")] == [b"8"]
    again.replay(letter)
    again.drain()
    assert [record.key for record in broker.records("out")] == [b"8", b"7"]


def test_one_or_two_ends_of_the_process_with_a_record_in_hand_are_no_reason_to_put_it_aside(
    drive: Any, broker: MemoryBroker, tmp_path: Path
) -> None:
    one = drive()
    one.send(TYPE, "7", order(), id="a")
    one.crash()
    killed_with_in_hand(tmp_path / "home" / "flow.transform" / "crashes-0", "flow.transform/0/0#0", LIMIT - 1)
    again = drive()
    again.drain()
    assert len(broker.records("out")) == 1
    assert again.letters() == []
    assert not Crashes(tmp_path / "home" / "flow.transform" / "crashes-0").suspects, "it is behind us"


def test_a_waiting_record_that_ended_the_process_three_times_is_a_dead_letter(
    drive: Any, broker: MemoryBroker, tmp_path: Path
) -> None:
    def down(message: Message, view: View) -> Iterable[Output]:
        raise Failure("transient", "down")

    one = drive(down)
    one.send(TYPE, "7", order(), id="a")
    one.drain()
    assert one.stage.waiting() == 1
    one.crash()
    killed_with_in_hand(tmp_path / "home" / "flow.transform" / "crashes-0", "flow.transform/0/0#0", LIMIT)
    again = drive()
    again.clock.advance(3_600_000)
    again.drain()
    assert again.letters()[0]["failure_class"] == "poison"
    assert again.stage.waiting() == 0


def test_a_slow_handler_cuts_the_batch_short_and_the_rest_comes_with_the_next(drive: Any, broker: MemoryBroker) -> None:
    def slow(message: Message, view: View) -> Iterable[Output]:
        stage.clock.advance(BATCH_LIMIT_MS // 2)
        yield Output("out", TYPE, message.key, value=message.value, run=RUN)

    stage = drive(slow)
    for n in range(10):
        stage.send(TYPE, "7", order(), id=str(n))
    stage.drain()
    assert [len(each.outputs) for each in stage.log.transactions] == [3, 3, 3, 1]
    assert len({dict(record.headers)["ce_id"] for record in broker.records("out")}) == 10


def test_batches_that_abort_again_are_cut_in_half_until_one_is_committed(drive: Any, broker: MemoryBroker) -> None:
    stage = drive(batch=8)
    stage.drain()
    for n in range(16):
        stage.send(TYPE, "7", order(), id=str(n))
    for _ in range(2):
        stage.log.fail_next = "aborted"
        stage.stage.step()
    stage.drain()
    assert [len(each.outputs) for each in stage.log.transactions] == [2, 8, 6]


def test_a_stage_says_how_it_is(drive: Any, broker: MemoryBroker) -> None:
    down = True

    def handler(message: Message, view: View) -> Iterable[Output]:
        if message.key == "7" and down:
            raise Failure("transient", "down")
        return ()

    stage = drive(handler, batch=2, may_count=frozenset({"runs.failed"}))
    assert stage.stage.vitals.reasons() == ("is starting",)
    assert stage.stage.counters.items() >= {"failed.transient": 0, "failed.bug": 0, "runs.failed": 0}.items()
    for n in range(3):
        stage.send(TYPE, "7", order(), id=str(n))
    stage.send(TYPE, "8", order(), id="8")
    stage.stage.step()
    stage.stage.step()
    stage.clock.advance(TELL_MS)
    stage.stage.step()
    vitals = stage.stage.vitals
    assert vitals.reasons() == ()
    assert (vitals.waiting, vitals.blocked, vitals.lag) == (3, 1, {0: 0})
    assert vitals.oldest == TELL_MS
    assert vitals.counters["failed.transient"] == 1
    assert vitals.counters["queued"] == 2
    down = False
    stage.clock.advance(60_000)
    stage.drain()
    stage.clock.advance(TELL_MS)
    stage.stage.step()
    assert (stage.stage.vitals.waiting, stage.stage.vitals.oldest) == (0, 0)


@pytest.mark.parametrize("failure", [None, "aborted", "unknown"])
def test_each_duplicate_is_told_exactly_once_through_whatever_happens_to_the_commit(
    drive: Any, broker: MemoryBroker, failure: str | None
) -> None:
    """Three of five are duplicates: two inside the first batch, one in the batch whose commit goes wrong."""
    broker.partitions["stats"] = 1
    stage = drive(counts="stats")
    for id_ in ("a", "a", "a", "b"):
        stage.send(TYPE, "7", order(), id=id_, run=RUN)
    stage.drain()
    stage.send(TYPE, "7", order(), id="b", run=RUN)
    stage.log.fail_next = failure
    stage.drain()
    told = [CONTRACTS.decode(record.value or b"")[1] for record in broker.records("stats")]
    assert [(one["stage"], one["flow"], one["counts"]) for one in told] == [
        ("flow.transform", RUN.flow, {"duplicates": 2}),
        ("flow.transform", RUN.flow, {"duplicates": 1}),
    ]


def test_a_batch_without_duplicates_tells_nothing(drive: Any, broker: MemoryBroker) -> None:
    broker.partitions["stats"] = 1
    stage = drive(counts="stats")
    stage.send(TYPE, "7", order(), id="a")
    stage.drain()
    assert broker.records("stats") == []
