"""Dead letters: their states, orders about them, and the whole circle back to the stage that failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.envelope import write_internal
from handrail.errors import Failure
from handrail.identity import partition_for
from handrail.message import Due, Finished, Message, Output, Run
from handrail.pending import View
from handrail.recovery.letter import header_rows
from handrail.service import Deployment
from handrail.spec import Spec
from handrail.testing.driver import StageDriver
from handrail.testing.memory import MemoryBroker
from handrail_recovery.bootstrap import QUARANTINE, plans
from structlog.testing import capture_logs

from handrail import envelope

STAGE = "order-to-invoice.transform"
LETTER = "9c1d2e3f-0000-5000-8000-000000000001"
RUN = Run("01234567-89ab-8def-8123-456789abcdef", "order-to-invoice", 1)
HEADERS = write_internal("event", "orders/order-accepted.v1", None, RUN, "cause", "7")


@pytest.fixture
def specs(deployment: Deployment) -> dict[str, Spec]:
    return {plan.spec.name: plan.spec for plan in plans(deployment)}


class Desk:
    """The stage recovery.letters, and what is sent to it."""

    def __init__(self, stage: StageDriver, broker: MemoryBroker, contracts: Contracts) -> None:
        self.stage, self.broker, self.contracts = stage, broker, contracts
        self.sent = 0

    def letter(self, generation: int = 1, **fields: Any) -> dict[str, Any]:
        body = {
            "letter": LETTER,
            "generation": generation,
            "stage": STAGE,
            "flow": "order-to-invoice",
            "version": 1,
            "run": RUN.id,
            "route": "7",
            "step": None,
            "topic": STAGE,
            "partition": 1,
            "offset": 17,
            "timestamp": 1_700_000_000_000,
            "key": b"7",
            "value": b"\x00the original bytes\xff",
            "headers": header_rows((*HEADERS, ("x", None))),
            "event_id": "event",
            "contract": "orders/order-accepted.v1",
            "failure_class": "bug",
            "field": None,
            "exception": "ZeroDivisionError",
            "message": "division by zero",
            "stack": None,
            "fingerprint": "f" * 32,
            "attempts": 3,
            "trace": None,
            "payload_hash": "0" * 32,
            "failed_at": 5,
            "first_failed_at": 4,
        } | fields  # fmt: skip
        self._put("dead-letters", "handrail/dead-letter.v1", body)
        return body

    def order(
        self,
        order: str,
        generation: int = 1,
        letter: str = LETTER,
        by: str = "ada",
        contract: str = "handrail/letter-order.v2",
    ) -> None:
        body = {"letter": letter, "generation": generation, "order": order, "by": by, "reason": "mended", "at": 9}
        self._put("recovery.letters.replay", contract, body | ({"minutes": 12} if contract[-1] == "2" else {}))

    def _put(self, topic: str, contract: str, body: dict[str, Any]) -> None:
        self.sent += 1
        value = self.contracts.encode(contract, body)
        headers = write_internal(f"message {self.sent}", contract, None, None, "test", body["letter"])
        self.broker.publish(topic, body["letter"], value, headers)
        self.stage.drain()

    def states(self) -> list[tuple[str, int]]:
        found = [self.contracts.decode(record.value or b"")[1] for record in self.broker.records("recovery.states")]
        return [(each["state"], each["generation"]) for each in found]

    def relayed(self) -> list[Any]:
        return self.broker.records(f"{STAGE}.replay")


@pytest.fixture
def desk(specs: dict[str, Spec], drive: Any, broker: MemoryBroker, contracts: Contracts) -> Desk:
    return Desk(drive(specs["recovery.letters"]), broker, contracts)


def test_a_new_letter_is_open(desk: Desk, bodies: Any) -> None:
    desk.letter()
    (state,) = bodies("recovery.states")
    assert (state["state"], state["generation"], state["replays"]) == ("OPEN", 1, 0)
    assert (state["stage"], state["flow"], state["failure_class"]) == (STAGE, "order-to-invoice", "bug")
    assert (state["reason"], state["at"]) == ("division by zero", 5)


def test_a_replay_sends_the_original_bytes_to_the_stages_own_topic_on_the_original_partition(desk: Desk) -> None:
    letter = desk.letter()
    desk.order("replay")
    assert desk.states() == [("OPEN", 1), ("REPLAYING", 1)]
    (relayed,) = desk.relayed()
    assert relayed.partition == 1
    assert (relayed.key, relayed.value) == (letter["key"], letter["value"])
    assert envelope.read_internal(relayed.headers).run == RUN
    assert ("x", None) in relayed.headers
    replay = envelope.read_replay(relayed.headers)
    assert replay is not None
    assert (replay.letter, replay.generation) == (LETTER, 1)
    assert (replay.topic, replay.partition, replay.offset) == (STAGE, 1, 17)


def test_the_original_of_a_record_without_key_and_value_comes_back_as_it_was(desk: Desk) -> None:
    desk.letter(key=None, value=None, headers=[])
    desk.order("replay")
    (relayed,) = desk.relayed()
    assert (relayed.key, relayed.value) == (None, None)


def test_a_double_click_sends_once_and_the_second_order_is_logged_as_refused(desk: Desk) -> None:
    desk.letter()
    desk.order("replay")
    with capture_logs() as logs:
        desk.order("replay")
    assert len(desk.relayed()) == 1
    refused = [each for each in logs if each["event"] == "order refused"]
    assert [(each["letter"], each["order"], each["why"]) for each in refused] == [
        (LETTER, "replay", "the letter is REPLAYING")
    ]
    assert "ada" not in str(refused), "the log does not say who it was"


@pytest.mark.parametrize("order", ["replay", "discard"])
def test_the_audit_says_who_ordered_it_and_whether_it_was_done(desk: Desk, bodies: Any, order: str) -> None:
    desk.letter()
    desk.order(order)
    desk.order(order)
    done, refused = bodies("audit")
    assert (done["what"], done["by"], done["letter"], done["generation"]) == (order, "ada", LETTER, 1)
    assert done["refused"] is None
    assert refused["refused"] == f"the letter is {desk.states()[-1][0]}"
    assert {name: done[name] for name in ("what", "by", "letter")} == {
        name: refused[name] for name in ("what", "by", "letter")
    }


def test_an_entry_names_the_run_and_the_flow_of_the_letter(desk: Desk, bodies: Any) -> None:
    run = "01234567-89ab-8def-8123-456789abcdef"
    desk.letter(run=run, flow="order-to-invoice")
    desk.order("replay")
    (entry,) = bodies("audit")
    assert (entry["run"], entry["flow"], entry["minutes"]) == (run, "order-to-invoice", 12)


def test_an_order_of_an_older_build_says_no_minutes_and_is_carried_out(desk: Desk, bodies: Any) -> None:
    desk.letter()
    desk.order("replay", contract="handrail/letter-order.v1")
    assert [(entry["what"], entry["refused"], entry["minutes"]) for entry in bodies("audit")] == [
        ("replay", None, None)
    ]


def test_what_a_stage_reports_was_ordered_by_nobody(desk: Desk, bodies: Any) -> None:
    desk.letter()
    desk.order("replay")
    for _ in range(2):
        desk.order("resolved", by=STAGE)
    assert [entry["what"] for entry in bodies("audit")] == ["replay"]


def test_two_orders_in_one_batch_send_once(desk: Desk, contracts: Contracts) -> None:
    desk.letter()
    body = {"letter": LETTER, "generation": 1, "order": "replay", "by": "ada", "reason": None, "at": 9}
    for number in range(2):
        headers = write_internal(f"o{number}", "handrail/letter-order.v1", None, None, "test", LETTER)
        value = contracts.encode("handrail/letter-order.v1", body)
        desk.broker.publish("recovery.letters.replay", LETTER, value, headers)
    desk.stage.drain()
    assert len(desk.relayed()) == 1


@pytest.mark.parametrize("generation", [1, 3])
def test_an_order_about_another_generation_is_refused(desk: Desk, generation: int) -> None:
    desk.letter()
    desk.letter(generation=2)
    with capture_logs() as logs:
        desk.order("replay", generation=generation)
    assert desk.relayed() == []
    assert "generation 2 by now" in next(each["why"] for each in logs if each["event"] == "order refused")
    desk.order("replay", generation=2)
    assert len(desk.relayed()) == 1


def test_an_order_about_a_letter_that_nobody_knows_is_refused(desk: Desk) -> None:
    with capture_logs() as logs:
        desk.order("replay")
    assert [each["event"] for each in logs if each["log_level"] == "warning"] == ["order refused"]
    assert desk.states() == []


def test_what_the_stage_reports_resolves_the_letter_for_good(desk: Desk) -> None:
    desk.letter()
    desk.order("replay")
    desk.order("resolved", by=STAGE)
    assert desk.states()[-1] == ("RESOLVED", 1)
    for order in ("replay", "discard", "resolved"):
        desk.order(order)
    assert desk.states()[-1] == ("RESOLVED", 1)
    assert len(desk.relayed()) == 1
    rows = [
        record.value for record in desk.broker.records("recovery.letters.state") if b"letters/" in (record.key or b"")
    ]
    assert rows[-1] is None, "the payload is not kept for ever"


def test_nobody_can_resolve_what_was_not_replayed(desk: Desk) -> None:
    desk.letter()
    desk.order("resolved")
    assert desk.states() == [("OPEN", 1)]


def test_a_letter_that_fails_again_is_open_in_its_next_generation_and_counts_its_replays(
    desk: Desk, bodies: Any
) -> None:
    desk.letter()
    desk.order("replay")
    desk.letter(generation=2, message="still broken")
    assert desk.states() == [("OPEN", 1), ("REPLAYING", 1), ("OPEN", 2)]
    desk.order("replay", generation=2)
    assert [state["replays"] for state in bodies("recovery.states")] == [0, 1, 1, 2]
    replay = envelope.read_replay(desk.relayed()[-1].headers)
    assert replay is not None
    assert replay.generation == 2


def test_the_same_letter_twice_or_an_older_one_late_changes_nothing(desk: Desk) -> None:
    desk.letter(generation=2)
    desk.letter(generation=2)
    desk.letter(generation=1)
    assert desk.states() == [("OPEN", 2)]


def test_a_discarded_letter_is_not_replayed(desk: Desk) -> None:
    desk.letter()
    desk.order("discard")
    desk.order("replay")
    assert desk.states() == [("OPEN", 1), ("DISCARDED", 1)]
    assert desk.relayed() == []


def test_a_letter_under_way_can_not_be_discarded(desk: Desk) -> None:
    desk.letter()
    desk.order("replay")
    desk.order("discard")
    assert desk.states()[-1] == ("REPLAYING", 1)


def test_a_crash_between_order_and_commit_sends_once(desk: Desk, drive: Any) -> None:
    desk.letter()
    desk.stage.log.fail_next = "unknown"
    desk.order("replay")
    desk.stage.crash()
    desk.stage = drive(desk.stage.spec, "another disk")
    desk.stage.drain()
    desk.order("replay")
    assert len(desk.relayed()) == 1


@pytest.mark.parametrize("value", [b"", b"garbage", b"\x00\x00\x00\x00\x07x", None])
def test_a_letter_that_can_not_be_read_goes_to_the_quarantine(
    desk: Desk, broker: MemoryBroker, contracts: Contracts, value: bytes | None
) -> None:
    broker.publish("dead-letters", LETTER, value)
    desk.stage.drain()
    (record,) = broker.records(QUARANTINE)
    letter = contracts.decode(record.value or b"")[1]
    assert (letter["stage"], letter["value"]) == ("recovery.letters", value)
    assert len(broker.records("dead-letters")) == 1, "no letter about a letter"
    desk.letter()
    assert desk.states() == [("OPEN", 1)], "the stage goes on"


def test_no_timer_is_ever_due(specs: dict[str, Spec]) -> None:
    view: View = None  # type: ignore[assignment]
    for spec in specs.values():
        with pytest.raises(TypeError, match="sets no timers"):
            list(spec.handler(Due("x", "k", b"", 0), view))


# --- the whole circle


def test_a_message_goes_the_whole_circle_and_is_done_only_when_its_stage_says_so(
    desk: Desk, drive: Any, broker: MemoryBroker, order: Callable[..., bytes], bodies: Any, contracts: Contracts
) -> None:
    """A stage gives up, an operator replays, it fails again, an operator replays again, and it goes through."""
    down = True

    def handler(message: Message | Due | Finished, _view: View) -> Iterable[Output]:
        assert isinstance(message, Message)
        if down:
            raise Failure("business", "not today")
        yield Output("out", message.type, message.key, value=message.value, run=message.run)

    spec = Spec(
        name=STAGE,
        inbox=STAGE,
        accepts=frozenset({"orders/order-accepted.v1"}),
        handler=handler,
        partitions=broker.partitions_of,
        knows=lambda _flow, _version: True,
    )
    failing: StageDriver = drive(spec)
    record = failing.send("orders/order-accepted.v1", "7", order(), id="event", run=RUN)
    failing.drain()
    desk.stage.drain()
    (letter,) = bodies("dead-letters")
    assert letter["partition"] == record.partition == partition_for("7", 2)
    for _ in range(2):
        desk.order("replay", letter=letter["letter"])
    failing.drain()
    desk.stage.drain()
    assert desk.states() == [("OPEN", 1), ("REPLAYING", 1), ("OPEN", 2)]
    assert bodies("dead-letters")[-1]["letter"] == letter["letter"]
    down = False
    desk.order("replay", letter=letter["letter"], generation=1)
    desk.order("replay", letter=letter["letter"], generation=2)
    assert broker.records("out") == []
    failing.drain()
    desk.stage.drain()
    assert desk.states()[3:] == [("REPLAYING", 2), ("RESOLVED", 2)]
    assert [each.value for each in broker.records("out")] == [order()]
    failing.send("orders/order-accepted.v1", "7", order(), id="event", run=RUN)
    failing.drain()
    assert len(broker.records("out")) == 1, "its original, once more, is a duplicate"


def test_an_order_travels_from_the_operators_topic_to_the_stage(
    desk: Desk, specs: dict[str, Spec], drive: Any, broker: MemoryBroker, contracts: Contracts
) -> None:
    desk.letter()
    commands: StageDriver = drive(replace(specs["recovery.commands"]))
    fields = ("task", "run", "flow", "version", "route", "step", "verdict")
    body = dict.fromkeys(fields) | {
        "command": "replay", "letter": LETTER, "generation": 1, "by": "ada", "reason": None, "at": 9,
    }  # fmt: skip
    broker.publish("recovery.commands", LETTER, contracts.encode("handrail/operator-command.v1", body))
    commands.drain()
    desk.stage.drain()
    assert desk.states()[-1] == ("REPLAYING", 1)
    assert len(desk.relayed()) == 1
