"""`handrail dlq`: looking at dead letters, and orders whose outcomes are counted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail_console.commands.dlq import app
from handrail_console.ledger import Ledger

LETTER = "9c1d2e3f-0000-5000-8000-000000000001"
SECOND = "9c1d2e3f-0000-5000-8000-000000000002"
THIRD = "aaaaaaaa-0000-5000-8000-000000000003"


def test_open_letters_are_listed_and_others_on_demand(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply(
        [
            records.letter(),
            records.letter(letter=SECOND, failure_class="poison", flow=None, route=None),
            records.letter(letter=THIRD),
            records.letter_state("RESOLVED", letter=THIRD),
        ]
    )
    lines = desk(app, "list").output.splitlines()
    assert [line.split()[0] for line in lines] == ["LETTER", LETTER, SECOND]
    assert [one["letter"] for one in json.loads(desk(app, "list", "--class", "poison", "--json").output)] == [SECOND]
    assert [one["letter"] for one in json.loads(desk(app, "list", "--state", "resolved", "--json").output)] == [THIRD]
    assert len(json.loads(desk(app, "list", "--state", "all", "--json").output)) == 3
    assert len(json.loads(desk(app, "list", "--flow", "order-to-invoice", "--json").output)) == 1
    assert "no dead letter is so" in desk(app, "list", "--flow", "none").output
    assert desk(app, "list", "--class", "flaky").exit_code == 2


def test_letters_that_failed_alike_are_one_incident(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply(
        [
            records.letter(fingerprint="f1"),
            records.letter(letter=SECOND, fingerprint="f2", message="other"),
            records.letter(letter=THIRD, fingerprint="f2", failed_at=1_767_261_783_000),
        ]
    )
    groups = json.loads(desk(app, "list", "--by", "fingerprint", "--json").output)
    assert [(group["fingerprint"], group["count"], group["letters"]) for group in groups] == [
        ("f2", 2, [SECOND, THIRD]),
        ("f1", 1, [LETTER]),
    ]
    assert groups[0]["last_seen"] - groups[0]["first_seen"] == 60_000
    assert desk(app, "list", "--by", "fingerprint").output.splitlines()[1].split()[:2] == ["f2", "2"]


def test_a_letter_is_shown_with_all_its_fields(ledger: Ledger, desk: Any, records: Any, contracts: Contracts) -> None:
    body = {**records_task_body(), "title": "shown"}
    value = contracts.encode("handrail/task.v1", body)
    ledger.apply(
        [
            records.letter(value=value, stack="Traceback\n  boom", field="total_minor", exception="Refused"),
            records.letter_state("OPEN", by="recovery", reason="failed again", replays=2),
        ]
    )
    output = desk(app, "show", "9c1d").output
    for text in (
        f"Letter       {LETTER}, generation 1, 2 replays",
        "State        OPEN since 2026-01-01 10:02:03 UTC by recovery: failed again",
        "Failed       business: billing said no: credit refused",
        "Field        total_minor",
        "Exception    Refused",
        "Stood at     order-to-invoice.decision, partition 3, offset 42",
        "Flow         order-to-invoice v1, step invoice",
        "(handrail runs show 0a1b2c3d-0000-8000-8000-000000000001)",
        "  ce_id      abc",
        "  odd        {'base64': '/w=='}",
        f"Payload      {len(value)} bytes, hash {'00' * 16}, handrail/task.v1",
        '"title": "shown"',
        "  boom",
        f"then: handrail dlq replay {LETTER}",
    ):
        assert text in output
    told = json.loads(desk(app, "show", LETTER, "--json").output)
    assert told["payload"]["decoded"]["title"] == "shown"
    assert told["headers"] == [["ce_id", "abc"], ["odd", {"base64": "/w=="}]]
    assert told["key"] == "7"


def records_task_body() -> dict[str, Any]:
    return {
        "run": "r",
        "flow": "f",
        "version": 1,
        "task": "t",
        "route": "7",
        "step": "s",
        "kind": "manual",
        "state": "open",
        "group": "g",
        "title": "t",
        "context": "{}",
        "runbook": None,
        "due_at": None,
        "decided_by": None,
        "reason": None,
        "at": 0,
    }


@pytest.mark.parametrize(
    ("value", "told", "shown"),
    [
        (b"\x00not avro", "not decoded: ", "00 6e 6f 74"),
        (b'{"order": 7}', "not decoded: ", '{"order": 7}'),
        (b"\x1b[2J", "not decoded: ", "1b 5b 32 4a"),
        (b"", "not decoded: ", ""),
        (None, "a tombstone", ""),
    ],
)
def test_a_payload_that_does_not_decode_is_shown_as_it_is(
    ledger: Ledger, desk: Any, records: Any, value: bytes | None, told: str, shown: str
) -> None:
    ledger.apply([records.letter(value=value, failure_class="poison", topic="ingest.orders.order-accepted")])
    result = desk(app, "show", LETTER)
    assert result.exit_code == 0
    assert told in result.output
    assert shown in result.output
    assert "ask whoever writes to ingest.orders.order-accepted" in result.output
    assert "\x1b" not in result.output


def test_a_letter_that_is_not_there_gives_a_hint(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.letter(), records.letter(letter=SECOND)])
    result = desk(app, "show", "nothing")
    assert result.exit_code == 1
    assert "handrail dlq list --state all" in result.output
    assert "means more than one dead letter" in desk(app, "show", "9c1d").output


def test_a_replay_says_what_it_saw_and_reports_the_outcome(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.letter(generation=3), records.letter_state("OPEN", generation=3, replays=2)])
    desk.answers = [
        records.letter_state("REPLAYING", generation=3, replays=3),
        records.letter_state("RESOLVED", generation=3, replays=3, reason="handled by order-to-invoice.decision"),
    ]
    result = desk(app, "replay", LETTER[:6], "--reason", "limit raised")
    assert result.exit_code == 0
    assert f"{LETTER}  RESOLVED   handled by order-to-invoice.decision" in result.output
    assert "1 RESOLVED" in result.output
    [order] = desk.sent
    assert order.key == LETTER
    assert order.body == {
        "command": "replay",
        "letter": LETTER,
        "generation": 3,
        "task": None,
        "run": None,
        "flow": None,
        "version": None,
        "route": None,
        "step": None,
        "verdict": None,
        "by": "ann",
        "reason": "limit raised",
        "minutes": None,
        "at": 1_767_261_783_000,
    }


def test_every_order_fits_its_contract(ledger: Ledger, desk: Any, records: Any, contracts: Contracts) -> None:
    ledger.apply([records.letter()])
    desk(app, "replay", LETTER, "--wait", "0")
    desk(app, "discard", LETTER, "--reason", "a test", "--by", "bob", "--wait", "0")
    decoded = [contracts.decode(contracts.encode("handrail/operator-command.v2", body))[1] for body in desk.bodies]
    assert decoded == desk.bodies
    assert [(body["command"], body["by"], body["reason"]) for body in decoded] == [
        ("replay", "ann", None),
        ("discard", "bob", "a test"),
    ]


def test_the_minutes_of_many_orders_are_counted_once(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.letter(), records.letter(letter=SECOND)])
    assert desk(app, "replay", "--all", "--yes", "--minutes", "15", "--wait", "0").exit_code == 0
    assert [body["minutes"] for body in desk.bodies] == [8, 7]


def test_a_letter_that_fails_again_is_open_again_and_no_success(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.letter()])
    desk.answers = [
        records.letter_state("REPLAYING", replays=1),
        records.letter(generation=2, message="billing said no: still refused"),
    ]
    result = desk(app, "replay", LETTER)
    assert result.exit_code == 1
    assert "OPEN       failed again: billing said no: still refused" in result.output


def test_a_letter_that_recovery_gives_back_is_open_again_with_its_reason(
    ledger: Ledger, desk: Any, records: Any
) -> None:
    ledger.apply([records.letter()])
    desk.answers = [records.letter_state("OPEN", replays=1, reason="the stage did not report in time")]
    result = desk(app, "replay", LETTER)
    assert result.exit_code == 1
    assert "OPEN       the stage did not report in time" in result.output


def test_what_is_not_over_in_time_is_no_success(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.letter(), records.letter(letter=SECOND)])
    desk.answers = [records.letter_state("REPLAYING", replays=1)]
    result = desk(app, "replay", LETTER, SECOND, "--wait", "5", "--yes", "--json")
    assert result.exit_code == 1
    told = {one["id"]: (one["state"], one["final"]) for one in json.loads(result.stdout)}
    assert told == {LETTER: ("REPLAYING", False), SECOND: ("OPEN", False)}
    assert desk.seconds == pytest.approx(5)
    assert "no answer from recovery yet" in result.stdout


def test_all_open_letters_of_a_class_are_replayed_after_a_yes(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply(
        [
            records.letter(),
            records.letter(letter=SECOND),
            records.letter(letter=THIRD, failure_class="poison"),
            records.letter(letter=THIRD[:-1] + "4"),
            records.letter_state("DISCARDED", letter=THIRD[:-1] + "4"),
        ]
    )
    refused = desk(app, "replay", "--all", "--class", "business", typed="n\n")
    assert refused.exit_code == 1
    assert "2  business at order-to-invoice.decision" in refused.output
    assert desk.sent == []
    desk.answers = [records.letter_state("RESOLVED"), records.letter_state("RESOLVED", letter=SECOND)]
    result = desk(app, "replay", "--all", "--class", "business", typed="y\n")
    assert result.exit_code == 0
    assert "2 RESOLVED" in result.output
    assert [order.key for order in desk.sent] == [LETTER, SECOND]


def test_nothing_to_replay_is_no_failure(ledger: Ledger, desk: Any) -> None:
    result = desk(app, "replay", "--all", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == []
    assert "nothing to replay" in result.stderr


def test_only_open_letters_are_sent_and_each_once(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.letter(), records.letter(letter=THIRD), records.letter_state("DISCARDED", letter=THIRD)])
    desk.answers = [records.letter_state("RESOLVED")]
    result = desk(app, "replay", LETTER, LETTER[:4], THIRD)
    assert [order.key for order in desk.sent] == [LETTER]
    assert result.exit_code == 1
    assert "became DISCARDED" in result.output


def test_a_letter_that_is_resolved_already_is_not_sent_again(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.letter(), records.letter_state("RESOLVED")])
    assert desk(app, "replay", LETTER).exit_code == 0
    assert desk.sent == []


def test_a_discard_needs_a_reason_and_waits_for_its_state(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.letter()])
    assert desk(app, "discard", LETTER).exit_code == 2
    assert desk(app, "discard", LETTER, "--reason", "  ").exit_code == 2
    assert desk.sent == []
    desk.answers = [records.letter_state("DISCARDED", by="ann", reason="a test")]
    result = desk(app, "discard", LETTER, "--reason", "a test")
    assert result.exit_code == 0
    assert "1 DISCARDED" in result.output


@pytest.mark.parametrize("args", [[], [LETTER, "--all"], [LETTER, "--class", "bug"], [LETTER, "--flow", "f"]])
def test_letters_and_all_exclude_each_other(ledger: Ledger, desk: Any, records: Any, args: list[str]) -> None:
    ledger.apply([records.letter()])
    assert desk(app, "replay", *args).exit_code == 2
    assert desk.sent == []


def test_every_command_has_an_example(desk: Any) -> None:
    for command in ("list", "show", "replay", "discard"):
        assert f"Example: handrail dlq {command}" in desk(app, command, "--help").output
