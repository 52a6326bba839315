"""Operators' orders: each is carried out whole, or is a dead letter that says what it lacks."""

from __future__ import annotations

from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.identity import partition_for
from handrail.message import Run
from handrail.service import Deployment
from handrail.testing.driver import StageDriver
from handrail.testing.memory import MemoryBroker
from handrail_recovery.bootstrap import plans

from handrail import envelope

FLOW = "order-to-invoice"
RUN = "01234567-89ab-8def-8123-456789abcdef"
EMPTY = dict.fromkeys(
    ("letter", "generation", "task", "run", "flow", "version", "route", "step", "verdict", "reason", "minutes")
)
DECIDE = EMPTY | {
    "command": "decide", "task": "3f2a91c0-0000-8000-8000-000000000001", "run": RUN, "flow": FLOW, "version": 1,
    "route": "7", "step": "review", "verdict": "approve", "by": "ada", "at": 9,
}  # fmt: skip
REPLAY = EMPTY | {"command": "replay", "letter": "9c1d", "generation": 2, "by": "ada", "at": 9}
DISCARD = REPLAY | {"command": "discard", "reason": "a test order"}
REVIEW = EMPTY | {
    "command": "review", "flow": FLOW, "version": 1, "by": "ada", "reason": "the limits are right", "minutes": 30, "at": 9,
}  # fmt: skip


class Office:
    """The stage recovery.commands."""

    def __init__(self, stage: StageDriver, broker: MemoryBroker, contracts: Contracts) -> None:
        self.stage, self.broker, self.contracts = stage, broker, contracts

    def order(self, body: dict[str, Any], contract: str = "handrail/operator-command.v2") -> None:
        value = self.contracts.encode(contract, body)
        # As the command line sends it: partition 0, an id, no header of ours.
        self.broker.publish("recovery.commands", "k", value, (("ce_id", f"{len(value)} {body}".encode()),))
        self.stage.drain()


@pytest.fixture
def office(deployment: Deployment, drive: Any, broker: MemoryBroker, contracts: Contracts) -> Office:
    spec = next(plan.spec for plan in plans(deployment) if plan.spec.name == "recovery.commands")
    return Office(drive(spec), broker, contracts)


@pytest.mark.parametrize("verdict", ["approve", "reject", "done"])
def test_a_verdict_goes_to_the_runs_own_stage_keyed_by_its_route(
    office: Office, broker: MemoryBroker, bodies: Any, verdict: str
) -> None:
    office.order(DECIDE | {"verdict": verdict, "reason": "because"})
    (record,) = broker.records(f"{FLOW}.decision")
    (decision,) = bodies(f"{FLOW}.decision")
    meta = envelope.read_internal(record.headers)
    assert (meta.route, meta.type, meta.run) == ("7", "handrail/human-decision.v1", Run(RUN, FLOW, 1))
    assert record.partition == partition_for("7", 2)
    assert decision == {
        "run": RUN, "flow": FLOW, "version": 1, "task": DECIDE["task"], "step": "review", "verdict": verdict,
        "by": "ada", "reason": "because", "at": 9,
    }  # fmt: skip


@pytest.mark.parametrize("verdict", ["approve", "reject", "done"])
def test_the_audit_says_who_decided_what_and_why(office: Office, bodies: Any, verdict: str) -> None:
    office.order(DECIDE | {"verdict": verdict, "reason": "because"})
    (entry,) = bodies("audit")
    assert entry == {
        "what": verdict, "by": "ada", "reason": "because", "letter": None, "generation": None, "task": DECIDE["task"],
        "run": RUN, "flow": FLOW, "refused": None, "minutes": None, "at": 9,
    }  # fmt: skip


def test_the_audit_says_how_long_it_took(office: Office, bodies: Any) -> None:
    office.order(DECIDE | {"verdict": "done", "minutes": 12})
    assert [entry["minutes"] for entry in bodies("audit")] == [12]


def test_an_order_about_a_letter_hands_its_minutes_on(office: Office, bodies: Any) -> None:
    office.order(REPLAY | {"minutes": 12})
    assert [order["minutes"] for order in bodies("recovery.letters.replay")] == [12]


def test_a_review_of_a_flow_is_noted_and_moves_nothing(office: Office, broker: MemoryBroker, bodies: Any) -> None:
    office.order(REVIEW)
    (entry,) = bodies("audit")
    assert entry == {
        "what": "review", "by": "ada", "reason": "the limits are right", "letter": None, "generation": None,
        "task": None, "run": None, "flow": FLOW, "refused": None, "minutes": 30, "at": 9,
    }  # fmt: skip
    assert [record.key for record in broker.records("audit")] == [FLOW.encode()]
    assert broker.records(f"{FLOW}.decision") == broker.records("recovery.letters.replay") == []


def test_an_order_of_an_older_command_line_is_carried_out(office: Office, broker: MemoryBroker, bodies: Any) -> None:
    old = "handrail/operator-command.v1"
    office.order({name: value for name, value in DECIDE.items() if name != "minutes"}, old)
    office.order({name: value for name, value in REPLAY.items() if name != "minutes"}, old)
    assert len(broker.records(f"{FLOW}.decision")) == len(broker.records("recovery.letters.replay")) == 1
    assert [entry["minutes"] for entry in bodies("audit")] == [None]


@pytest.mark.parametrize("body", [REPLAY, DISCARD])
def test_of_an_order_about_a_letter_its_stage_makes_the_entry(
    office: Office, bodies: Any, body: dict[str, Any]
) -> None:
    office.order(body)
    assert bodies("audit") == []


@pytest.mark.parametrize("body", [REPLAY, DISCARD])
def test_an_order_about_a_letter_goes_to_the_letters_stage(
    office: Office, broker: MemoryBroker, bodies: Any, body: dict[str, Any]
) -> None:
    office.order(body)
    (record,) = broker.records("recovery.letters.replay")
    (order,) = bodies("recovery.letters.replay")
    assert dict(record.headers)["ce_type"] == b"handrail/letter-order.v1", "an older build takes it, too"
    assert (order["order"], order["letter"], order["generation"]) == (body["command"], "9c1d", 2)
    assert (order["by"], order["reason"], order["at"]) == ("ada", body["reason"], 9)
    assert record.partition == partition_for("9c1d", 2), "where the letter is"


@pytest.mark.parametrize(
    ("body", "field"),
    [(REPLAY | {name: None}, name) for name in ("letter", "generation")]
    + [(REPLAY | {"letter": ""}, "letter"), (REPLAY | {"by": " "}, "by")]
    + [(DISCARD | {"reason": reason}, "reason") for reason in (None, "", "  ")]
    + [(DECIDE | {name: None}, name) for name in ("task", "run", "flow", "version", "route", "step", "verdict")]
    + [(REVIEW | {name: None}, name) for name in ("flow", "version", "reason")]
    + [(REVIEW | {"version": 99}, "version"), (REVIEW | {"by": " "}, "by"), (REVIEW | {"reason": " "}, "reason")]
    + [(DECIDE | {"verdict": "perhaps"}, "verdict"), (DECIDE | {"run": "not an id"}, "run")]
    + [(DECIDE | {"verdict": "reject", "reason": None}, "reason")],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_an_order_that_lacks_something_is_a_dead_letter_that_names_it(
    office: Office, broker: MemoryBroker, body: dict[str, Any], field: str
) -> None:
    office.order(body)
    (letter,) = office.stage.letters()
    assert (letter["failure_class"], letter["field"], letter["stage"]) == ("contract", field, "recovery.commands")
    assert broker.records(f"{FLOW}.decision") == []
    assert broker.records("recovery.letters.replay") == []
    assert broker.records("audit") == []


@pytest.mark.parametrize("fields", [{"version": 99}, {"version": 0}, {"flow": "no-such-flow"}])
def test_a_verdict_for_a_version_that_is_not_there_stops_no_stage(
    office: Office, broker: MemoryBroker, fields: dict[str, Any]
) -> None:
    """A decision stage would pause for it, with every other run of its partition."""
    office.order(DECIDE | fields)
    (letter,) = office.stage.letters()
    assert (letter["failure_class"], letter["field"]) == ("contract", "version")
    assert broker.records(f"{FLOW}.decision") == []


def test_a_route_may_be_a_blank(office: Office, broker: MemoryBroker) -> None:
    office.order(DECIDE | {"route": " "})
    assert [record.key for record in broker.records(f"{FLOW}.decision")] == [b" "]


def test_one_order_delivered_twice_is_carried_out_once(office: Office, broker: MemoryBroker) -> None:
    office.order(DECIDE)
    office.order(DECIDE)
    assert len(broker.records(f"{FLOW}.decision")) == 1
    assert len(broker.records("audit")) == 1


def test_bytes_that_are_no_order_are_a_dead_letter(office: Office, broker: MemoryBroker) -> None:
    broker.publish("recovery.commands", "k", b"replay everything!")
    office.stage.drain()
    assert [letter["failure_class"] for letter in office.stage.letters()] == ["poison"]
