"""The effect ledger, driven in memory: from a command to its one outcome, through everything that a call may meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from handrail.message import Run
from handrail.service import Deployment
from handrail_action.bootstrap import plans

from handrail import envelope

Make = Callable[..., Any]
DEAD_AT = 5_000 + 2_000  # send window and billing's total deadline
SETTLE = 300

UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


def test_a_call_that_was_seen_to_have_worked_is_verified(bench: Make, invoice_body: Make) -> None:
    b = bench()
    key = b.command()
    call = b.phone.says(201, invoice_body())
    b.driver.drain()
    question = b.phone.says(200, invoice_body())
    outcome = b.outcome()
    assert (call.kind, call.method, call.headers["Idempotency-Key"]) == ("call", "POST", key)
    assert (question.kind, question.method) == ("verify", "GET")
    assert question.url.endswith("/billing/invoices?reference=7%2F1")
    assert (outcome["status"], outcome["attempts"], outcome["failure_class"]) == ("verified", 1, None)
    assert outcome["first_failure_at"] is None
    assert b.flow.contracts.decode(outcome["response"])[1]["invoice_id"] == "i-1"


def test_without_a_verification_a_good_answer_is_accepted(bench: Make, invoice_body: Make) -> None:
    b = bench(verify=False)
    b.command()
    b.phone.says(201, invoice_body())
    assert b.outcome()["status"] == "accepted"
    assert [job.kind for job in b.phone.started] == ["call"]


def test_nothing_is_called_before_its_intent_is_committed(bench: Make) -> None:
    b = bench()
    b.driver.log.fail_next = "aborted"
    b.command()
    assert b.driver.stage.counters["aborted.broker"] == 1
    assert len(b.phone.started) == 1, "once, after the second try to commit"


def test_a_commit_that_nobody_knows_of_makes_no_call_and_is_asked_about_later(bench: Make) -> None:
    b = bench()
    b.driver.log.fail_next = "unknown"
    b.command()
    assert b.phone.started == []
    b.pass_time(DEAD_AT + SETTLE)
    assert [job.kind for job in b.phone.started] == ["verify"]


def test_a_503_is_tried_again_with_the_same_key_and_not_before_its_backoff(bench: Make, invoice_body: Make) -> None:
    b = bench()
    b.command()
    first = b.phone.says(503)
    b.driver.drain()
    b.pass_time(199)
    assert len(b.phone.started) == 1
    b.pass_time(1)
    second = b.phone.says(201, invoice_body())
    b.driver.drain()
    b.phone.says(200, invoice_body())
    outcome = b.outcome()
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert (outcome["status"], outcome["attempts"]) == ("verified", 2)
    assert outcome["first_failure_at"] == outcome["started_at"]


def test_decision_hears_of_the_first_failure_while_the_call_is_tried_again_and_of_that_alone(
    bench: Make, invoice_body: Make
) -> None:
    b = bench()
    b.command(id="the command", traceparent=UNSAMPLED)
    failed_at = b.clock.now()
    b.phone.says(503, "closed for lunch")
    b.driver.drain()
    ((contract, failing),) = b.told()
    assert contract == "handrail/step-failing.v1"
    assert (failing["step"], failing["revision"], failing["attempts"]) == ("invoice", 1, 1)
    assert (failing["failure_class"], failing["reason"]) == ("transient", "billing answered 503: closed for lunch")
    assert failing["at"] == failed_at
    meta = envelope.read_internal(b.broker.records("order-to-invoice.decision")[0].headers)
    assert (meta.cause, meta.route) == ("the command", "7")
    assert meta.traceparent is not None
    assert meta.traceparent.endswith("-01"), "what fails is recorded from here on"
    b.pass_time(200)
    b.phone.says(503)
    b.driver.drain()
    b.wait_until_called()
    b.phone.says(201, invoice_body())
    b.driver.drain()
    b.phone.says(200, invoice_body())
    b.driver.drain()
    assert [contract for contract, _ in b.told()] == ["handrail/step-failing.v1", "handrail/outcome.v1"]
    assert b.outcome()["first_failure_at"] == failed_at


@pytest.mark.parametrize("how", ["lost", "crash", "429"])
def test_also_a_lost_reply_a_cut_off_call_and_a_refusal_for_now_are_told_at_once(bench: Make, how: str) -> None:
    b = bench()
    b.command()
    match how:
        case "lost":
            b.phone.give(trouble="lost", detail="billing: ServerDisconnectedError")
        case "crash":
            b.crash()
            b.pass_time(DEAD_AT + SETTLE)
        case "429":
            b.phone.says(429, retry_after="30")
    b.driver.drain()
    expected = "rate_limited" if how == "429" else "unknown_outcome"
    assert [each["failure_class"] for each in b.failings()] == [expected]
    assert b.outcomes() == []


def test_what_fails_for_good_at_once_is_told_by_its_outcome_alone(bench: Make) -> None:
    b = bench()
    b.command()
    b.phone.says(422, "credit refused")
    assert b.outcome()["status"] == "failed"
    assert b.failings() == []


def test_a_refused_connection_is_transient_and_needs_no_question(bench: Make) -> None:
    b = bench()
    b.command()
    b.phone.give(trouble="not-sent", detail="billing: refused")
    b.driver.drain()
    b.pass_time(200)
    assert [job.kind for job in b.phone.started] == ["call", "call"]


def test_what_could_not_be_sent_in_time_used_up_none_of_its_attempts(bench: Make) -> None:
    b = bench()
    b.command()
    for _ in range(20):
        b.wait_until_called()
        b.phone.give(trouble="too-late", detail="its time to be sent had passed")
        b.driver.drain()
    assert b.outcomes() == [], "our own crowd at the door is no failure of billing"


def test_transient_failures_end_as_one_failed_outcome_when_the_attempts_are_used_up(bench: Make) -> None:
    b = bench()
    b.command()
    for _ in range(7):  # the flow allows six retries
        b.wait_until_called()
        b.phone.says(503, "closed for lunch")
        b.driver.drain()
    outcome = b.outcome()
    assert (outcome["status"], outcome["failure_class"], outcome["attempts"]) == ("failed", "transient", 7)
    assert "billing answered 503: closed for lunch" in outcome["reason"]
    assert "still failing after 7 attempts" in outcome["reason"]


def test_a_429_waits_as_long_as_it_is_told_and_is_not_counted(bench: Make) -> None:
    b = bench()
    b.command()
    for _ in range(20):  # far more often than the flow's six retries
        b.phone.says(429, retry_after="30")
        b.driver.drain()
        b.pass_time(29_999)
        assert not b.phone.open
        b.pass_time(1)
        assert b.phone.open
    assert b.outcomes() == []


def test_a_wait_longer_than_a_day_goes_to_a_person(bench: Make) -> None:
    b = bench()
    b.command()
    b.phone.says(429, retry_after=str(2 * 24 * 3600))
    assert (b.outcome()["status"], b.outcome()["failure_class"]) == ("failed", "rate_limited")


UNCLEAR: list[dict[str, Any]] = [
    {"status": 500},
    {"status": 502, "body": b"<html>bad gateway"},
    {"status": 504},
    {"trouble": "lost", "detail": "billing: ServerDisconnectedError"},
    {"status": 201, "body": b"<html>thanks"},
    {"status": 201, "body": b""},
    {"status": 201, "body": b"[]"},
    {"status": 201, "body": b"[" * 100_000},
    {"status": 201, "body": b'{"total_minor": NaN}'},
    {"status": 201, "body": b'{"invoice_id": "i-1"}'},
    {"status": 201, "body": b"\xff\xfe"},
]


@pytest.mark.parametrize("reply", UNCLEAR, ids=lambda reply: str(reply)[:50])
def test_after_an_unclear_answer_billing_is_asked_when_it_has_settled_and_what_is_there_is_not_made_again(
    bench: Make, invoice_body: Make, reply: dict[str, Any]
) -> None:
    b = bench()
    b.command()
    b.phone.give(**reply)
    b.driver.drain()
    b.pass_time(SETTLE - 1)
    assert len(b.phone.started) == 1, "what is still on its way could not be seen yet"
    b.pass_time(1)
    assert b.phone.says(200, invoice_body()).kind == "verify"
    outcome = b.outcome()
    assert (outcome["status"], outcome["attempts"]) == ("verified", 1)
    assert [job.kind for job in b.phone.started] == ["call", "verify"]


def test_after_an_unclear_answer_and_a_clear_no_the_same_key_is_sent_again(bench: Make, invoice_body: Make) -> None:
    b = bench()
    key = b.command()
    b.phone.give(trouble="lost", detail="cut off")
    b.driver.drain()
    b.pass_time(SETTLE)
    b.phone.says(404)
    b.wait_until_called()
    again = b.phone.says(201, invoice_body())
    b.driver.drain()
    b.phone.says(200, invoice_body())
    assert (again.kind, again.headers["Idempotency-Key"]) == ("call", key)
    assert (b.outcome()["status"], b.outcome()["attempts"]) == ("verified", 2)


def test_a_success_that_did_nothing_is_asked_about_for_its_whole_time_and_then_called_again(
    bench: Make, invoice_body: Make
) -> None:
    b = bench()
    b.command()
    b.phone.says(201, invoice_body())
    b.driver.drain()
    start = b.clock.now()
    while b.wait_until_called().kind == "verify":
        b.phone.says(404)
        b.driver.drain()
    assert b.clock.now() - start >= 10_000, "the step says within: 10s by default"
    assert len([job for job in b.phone.started if job.kind == "verify"]) >= 30
    b.phone.says(201, invoice_body())
    b.driver.drain()
    b.phone.says(200, invoice_body())
    assert (b.outcome()["status"], b.outcome()["attempts"]) == ("verified", 2)


def test_a_success_that_never_does_anything_ends_as_failed(bench: Make, invoice_body: Make) -> None:
    b = bench()
    b.command()
    for _ in range(1_000):
        if b.outcomes():
            break
        if b.wait_until_called().kind == "call":
            b.phone.says(201, invoice_body())
        else:
            b.phone.says(404)
        b.driver.drain()
    outcome = b.outcome()
    assert (outcome["status"], outcome["attempts"]) == ("failed", 7)
    assert "answered well, and it is not there" in outcome["reason"]


@pytest.mark.parametrize("status", [400, 409, 422])
def test_a_no_with_a_reason_is_final(bench: Make, status: int) -> None:
    b = bench()
    b.command()
    b.phone.says(status, '{"title": "credit refused"}')
    outcome = b.outcome()
    assert (outcome["status"], outcome["failure_class"], outcome["attempts"]) == ("failed", "business", 1)
    assert "credit refused" in outcome["reason"]


@pytest.mark.parametrize("status", [401, 403, 302])
def test_a_wrong_secret_or_address_is_a_matter_of_configuration(bench: Make, status: int) -> None:
    b = bench()
    b.command()
    b.phone.says(status)
    assert (b.outcome()["status"], b.outcome()["failure_class"]) == ("failed", "config")


@pytest.mark.parametrize("first", [{"status": 500}, {"status": 201, "body": b"?"}])
def test_something_else_than_what_was_asked_for_goes_to_a_person_and_is_never_called_again(
    bench: Make, invoice_body: Make, first: dict[str, Any]
) -> None:
    b = bench()
    b.command()
    b.phone.give(**first)
    b.driver.drain()
    b.pass_time(SETTLE)
    b.phone.says(200, invoice_body(total_minor=499))
    outcome = b.outcome()
    assert outcome["status"] == "unknown"
    assert "something else than what was asked for" in outcome["reason"]
    b.pass_time(86_400_000)
    assert [job.kind for job in b.phone.started] == ["call", "verify"]


def test_a_question_that_fails_is_asked_again_and_never_becomes_a_second_call(bench: Make, invoice_body: Make) -> None:
    b = bench()
    b.command()
    b.phone.give(trouble="lost")
    b.driver.drain()
    for reply in ({"status": 503}, {"status": 500}, {"trouble": "lost"}, {"trouble": "not-sent"}, {"status": 200}):
        assert b.wait_until_called().kind == "verify"
        b.phone.give(**reply)
        b.driver.drain()
    b.wait_until_called()
    b.phone.says(200, invoice_body())
    assert (b.outcome()["status"], b.outcome()["attempts"]) == ("verified", 1)


def test_one_failed_question_after_many_answered_ones_is_no_reason_to_ask_a_person(
    bench: Make, invoice_body: Make
) -> None:
    b = bench()
    b.command()
    b.phone.says(201, invoice_body())
    for _ in range(10):
        b.wait_until_called()
        b.phone.says(404)
        b.driver.drain()
    b.wait_until_called()
    b.phone.says(503)
    b.driver.drain()
    assert b.outcomes() == []
    b.wait_until_called()
    b.phone.says(200, invoice_body())
    assert b.outcome()["status"] == "verified"


def test_an_outage_longer_than_the_retries_of_a_call_is_waited_for_before_a_person_is_asked(
    bench: Make, invoice_body: Make
) -> None:
    b = bench()
    b.command()
    b.phone.give(trouble="lost")
    b.driver.drain()
    start = b.clock.now()
    asked = 0
    while b.clock.now() < start + 60_000:
        b.wait_until_called()
        b.phone.says(503)
        b.driver.drain()
        asked += 1
    assert b.outcomes() == []
    assert asked < 30, "with a growing distance"
    b.wait_until_called()
    b.phone.says(200, invoice_body())
    assert b.outcome()["status"] == "verified"


def test_a_question_that_is_never_answered_goes_to_a_person_as_unknown(bench: Make) -> None:
    b = bench()
    b.command()
    b.phone.give(trouble="lost")
    b.driver.drain()
    for _ in range(1_000):
        if b.outcomes():
            break
        b.wait_until_called()
        b.phone.says(503)
        b.driver.drain()
    outcome = b.outcome()
    assert (outcome["status"], outcome["attempts"]) == ("unknown", 1)
    assert "nobody can say whether it happened" in outcome["reason"]


def test_a_question_that_may_not_be_asked_goes_to_a_person_at_once(bench: Make) -> None:
    b = bench()
    b.command()
    b.phone.give(trouble="lost")
    b.driver.drain()
    b.wait_until_called()
    b.phone.says(403)
    assert (b.outcome()["status"], b.outcome()["failure_class"]) == ("unknown", "config")


# --- crashes


def test_after_a_crash_the_intent_is_asked_about_when_no_call_can_arrive_any_more(
    bench: Make, invoice_body: Make
) -> None:
    b = bench()
    b.command()
    assert len(b.phone.started) == 1
    b.crash()
    b.pass_time(DEAD_AT + SETTLE - 1)
    assert b.phone.started == []
    b.pass_time(1)
    assert b.phone.says(200, invoice_body()).kind == "verify"
    assert (b.outcome()["status"], b.outcome()["attempts"]) == ("verified", 1)


def test_after_a_crash_and_a_clear_no_the_same_key_is_sent(bench: Make, invoice_body: Make) -> None:
    b = bench()
    key = b.command()
    b.crash()
    b.wait_until_called()
    b.phone.says(404)
    b.wait_until_called()
    assert b.phone.says(201, invoice_body()).headers["Idempotency-Key"] == key
    assert [job.kind for job in b.phone.started] == ["verify", "call"]


def test_a_crash_during_the_question_or_the_wait_is_made_up_for(bench: Make, invoice_body: Make) -> None:
    b = bench()
    b.command()
    b.phone.says(503)
    b.driver.drain()
    b.crash()
    assert b.wait_until_called().kind == "call", "it waited for its next attempt, and nothing was under way"
    b.phone.says(201, invoice_body())
    b.driver.drain()
    b.crash()
    assert b.wait_until_called().kind == "verify"
    b.phone.says(200, invoice_body())
    assert (b.outcome()["status"], b.outcome()["attempts"]) == ("verified", 2)


def test_a_late_answer_of_an_earlier_attempt_is_no_news(bench: Make, invoice_body: Make) -> None:
    b = bench()
    b.command()
    b.pass_time(DEAD_AT + SETTLE)
    assert [job.kind for _, _, job in b.phone.open] == ["call", "verify"]
    b.phone.says(422, "too late")
    b.driver.drain()
    assert b.outcomes() == [], "the question is out, and only it counts"
    b.phone.says(404)
    b.wait_until_called()
    assert b.phone.open[0][2].attempt == 2
    stale = b.phone.started[0]
    b.phone.open.appendleft((0, b.phone.open[0][1], stale))
    b.phone.says(422, "even later")
    b.driver.drain()
    assert b.outcomes() == []
    b.phone.says(201, invoice_body())
    b.driver.drain()
    b.phone.says(200, invoice_body())
    assert b.outcome()["status"] == "verified"


def test_an_answer_after_the_outcome_is_no_news(bench: Make, invoice_body: Make) -> None:
    b = bench(verify=False)
    key = b.command()
    job = b.phone.says(201, invoice_body())
    b.driver.drain()
    b.phone.open.append((0, key, job))
    b.phone.says(422)
    assert b.outcome()["status"] == "accepted"


# --- order and duplicates


def test_a_second_command_of_a_route_waits_for_the_first_and_then_starts(bench: Make, invoice_body: Make) -> None:
    b = bench(verify=False)
    first = b.command("7")
    second = b.command("7", of="2")
    other = b.command("8")
    assert [job.headers["Idempotency-Key"] for job in b.phone.started] == [first, other]
    b.phone.says(503)
    b.driver.drain()
    assert len(b.phone.started) == 2, "also while the first waits for its next attempt"
    b.pass_time(200)
    b.phone.says(201, invoice_body("8"))
    b.phone.says(201, invoice_body("7"))
    b.driver.drain()
    assert b.phone.open[0][2].headers["Idempotency-Key"] == second
    b.phone.says(201, invoice_body("7"))
    b.driver.drain()
    assert len(b.outcomes()) == 3
    b.command("7", of="3")
    assert b.phone.open, "nothing of the ended ones is in the way"


def test_a_queued_command_starts_after_a_crash_too(bench: Make, invoice_body: Make) -> None:
    b = bench(verify=False, idempotency="honoured")
    b.command("7")
    second = b.command("7", of="2")
    b.crash()
    b.wait_until_called()
    b.phone.says(201, invoice_body())
    b.driver.drain()
    assert b.phone.open[0][2].headers["Idempotency-Key"] == second


def test_a_duplicate_command_is_ignored_under_its_own_id_and_under_another(bench: Make, invoice_body: Make) -> None:
    b = bench(verify=False)
    b.command(id="a")
    b.command(id="a")
    b.command(id="b")
    assert len(b.phone.started) == 1
    b.phone.says(201, invoice_body())
    assert b.outcome()["status"] == "accepted"
    b.command(id="a")
    assert len(b.phone.started) == 1


def test_a_next_revision_is_a_call_with_a_key_of_its_own(bench: Make) -> None:
    b = bench()
    first = b.command(revision=1)
    b.phone.says(422)
    b.driver.drain()
    second = b.command(revision=2)
    assert [job.headers["Idempotency-Key"] for job in b.phone.started] == [first, second]
    assert first != second


def test_an_undecodable_command_is_a_dead_letter_and_the_stage_goes_on(bench: Make) -> None:
    b = bench()
    b.driver.send("handrail/command.v1", "7", b"\x00garbage", id="x")
    b.command("8")
    assert [letter["failure_class"] for letter in b.driver.letters()] == ["contract"]
    assert len(b.phone.started) == 1


# --- systems that are less than conclusive


def test_a_system_that_can_not_be_asked_conclusively_gets_no_second_call(bench: Make) -> None:
    b = bench(conclusive=False)
    b.command()
    b.phone.give(trouble="lost")
    for _ in range(1_000):
        b.driver.drain()
        if b.outcomes():
            break
        b.wait_until_called()
        b.phone.says(404)
    assert b.outcome()["status"] == "unknown"
    assert [job.kind for job in b.phone.started].count("call") == 1


def test_without_question_and_without_idempotency_an_unknown_goes_to_a_person(bench: Make) -> None:
    b = bench(verify=False)
    b.command()
    b.phone.give(trouble="lost", detail="cut off")
    b.driver.drain()
    b.pass_time(SETTLE)
    outcome = b.outcome()
    assert (outcome["status"], outcome["failure_class"]) == ("unknown", "unknown_outcome")
    assert outcome["reason"] == "cut off"


def test_idempotency_that_is_honoured_lets_the_same_key_be_sent_again(bench: Make, invoice_body: Make) -> None:
    b = bench(verify=False, idempotency="honoured")
    key = b.command()
    b.phone.give(trouble="lost")
    b.driver.drain()
    b.wait_until_called()
    assert b.phone.says(201, invoice_body()).headers["Idempotency-Key"] == key
    assert (b.outcome()["status"], b.outcome()["attempts"]) == ("accepted", 2)


@pytest.mark.parametrize("last", [{"trouble": "lost"}, {"status": 503}, {"status": 409}])
def test_what_nobody_could_find_out_never_ends_as_if_it_had_not_happened(bench: Make, last: dict[str, Any]) -> None:
    """`failed` means that it did not happen: a replay would send a new key."""
    b = bench(verify=False, idempotency="honoured")
    b.command()
    b.phone.give(trouble="lost", detail="cut off")
    for _ in range(100):
        b.driver.drain()
        if b.outcomes():
            break
        b.clock.advance(1_000)
        b.driver.drain()
        if b.phone.open:
            b.phone.give(**last)
    assert (b.outcome()["status"], b.outcome()["failure_class"]) == ("unknown", "unknown_outcome")


# --- what a command may not break


def test_an_answer_with_more_than_its_contract_says_is_understood(bench: Make, invoice_body: Make) -> None:
    b = bench()
    b.command()
    b.phone.says(201, invoice_body(created_at="2026-11-21T10:00:00Z", links={"self": "/x"}))
    b.driver.drain()
    b.phone.says(200, invoice_body(paid=False))
    assert b.outcome()["status"] == "verified"


@pytest.mark.parametrize(
    "fields",
    [{"step": "nonsense"}, {"event": b"\x00torn"}, {"request": b""}, {"request": b"\x00\x00\x00\x00\x01x"}],
    ids=str,
)
def test_a_command_that_can_not_be_carried_out_ends_as_a_failed_outcome_for_decision(
    bench: Make, fields: dict[str, Any]
) -> None:
    b = bench()
    b.command(**fields)
    b.pass_time(60_000)
    outcome = b.outcome()
    assert outcome["status"] == "failed"
    assert outcome["reason"]
    assert b.driver.letters() == []
    assert b.phone.started == []


def test_a_long_queue_of_commands_that_can_not_be_carried_out_is_cleared(bench: Make, invoice_body: Make) -> None:
    b = bench(verify=False)
    b.command("7")
    for number in range(400):
        b.command("7", of=f"x{number}", request=b"")
    b.phone.says(201, invoice_body())
    b.driver.drain()
    assert len(b.outcomes()) == 401


class Broken:
    """A rule with a bug."""

    def holds(self, _values: Any) -> bool:
        raise RuntimeError("out of cheese")


def test_a_verification_that_can_not_be_computed_goes_to_a_person(bench: Make, invoice_body: Make) -> None:
    b = bench(rule=Broken())
    b.command()
    b.phone.says(201, invoice_body())
    b.driver.drain()
    b.phone.says(200, invoice_body())
    outcome = b.outcome()
    assert (outcome["status"], outcome["failure_class"]) == ("unknown", "bug")


def test_a_command_of_an_unknown_flow_version_pauses_its_partition(bench: Make) -> None:
    b = bench()
    b.driver.send("handrail/command.v1", "7", b"", id="x", run=Run("0" * 8 + "-0000-8000-8000-" + "0" * 12, "f", 9))
    b.driver.drain()
    assert not b.driver.stage.ready()
    assert b.driver.letters() == []


def test_the_outcome_names_its_cause_and_carries_the_trace(bench: Make, invoice_body: Make) -> None:
    b = bench(verify=False)
    b.command(id="the command")
    b.phone.give(status=201, body=b'{"x": 1}')
    b.driver.drain()
    b.pass_time(SETTLE)
    b.driver.drain()
    *_, record = b.broker.records("order-to-invoice.decision")
    meta = envelope.read_internal(record.headers)
    assert meta.cause == "the command"
    assert meta.route == "7"
    assert meta.traceparent is not None
    assert meta.traceparent.split("-")[1] == "0af7651916cd43dd8448eb211c80319c"


def test_the_outcome_of_a_failure_has_its_run_recorded_from_there_on(bench: Make) -> None:
    """Whatever the call's own span says: its answer may be fine by HTTP, and break its contract."""
    b = bench(verify=False)
    b.command(traceparent=UNSAMPLED)
    b.phone.give(status=201, body=b'{"x": 1}', traceparent=UNSAMPLED)
    b.driver.drain()
    b.pass_time(SETTLE)
    b.driver.drain()
    *_, record = b.broker.records("order-to-invoice.decision")
    assert b.outcome()["failure_class"] is not None
    assert envelope.read_internal(record.headers).traceparent == UNSAMPLED[:-2] + "01"


def test_every_way_that_a_call_may_go_is_counted_from_nought(deployment: Deployment, bench: Make) -> None:
    """Else Prometheus takes the first failed calls after a start for none."""
    (plan,) = [plan for plan in plans(deployment) if plan.spec.name == "action.billing"]
    b = bench()
    b.command()
    b.phone.says(409, "a conflict")
    assert {name for name in b.driver.stage.counters if name.startswith("calls.")} <= plan.spec.may_count
    assert {"calls.good", "calls.transient", "calls.business"} <= plan.spec.may_count
