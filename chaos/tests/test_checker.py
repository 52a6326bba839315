"""The checker finds each kind of defect in a history that is otherwise right, names it, and finds nothing else."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from handrail.identity import run_id
from handrail_chaos.checker import Verdict, check
from handrail_chaos.checker_stage import digest_of
from handrail_chaos.evidence import Evidence, Published, Table, Topic
from hypothesis import given, settings
from hypothesis import strategies as st


def sibling(name: str) -> Any:
    """Another file of this folder: test folders are no packages."""
    if name not in sys.modules:
        found = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert found is not None
        assert found.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules[name])
    return sys.modules[name]


history = sibling("checker_history")
World = history.World
FLOW, SOURCE = history.FLOW, history.SOURCE
INGEST, TRANSFORM, DECISION, ACTION = history.INGEST, history.TRANSFORM, history.DECISION, history.ACTION
OUTCOME, NOTICE = "handrail/outcome.v1", history.NOTICE
FATES = ("done", "retried", "rejected", "invalid", "undecodable", "manual", "failed", "replayed")


def run(identity: str) -> str:
    order, revision = identity.split("/")
    return run_id(FLOW, {"order_id": order, "revision": revision})


def wrongs(verdict: Verdict) -> dict[str, list[str]]:
    """What was found, by check, as text."""
    return {
        name: [f"{wrong.name}: {wrong.why}" for wrong in getattr(verdict, name)]
        for name in ("lost", "twice", "torn", "order")
        if getattr(verdict, name)
    }


# --- what is right


def test_a_correct_history_is_accepted() -> None:
    verdict = check(history.typical().evidence())
    assert wrongs(verdict) == {}
    assert verdict.holds
    assert verdict.ended == {"done": 10, "rejected": 1, "a dead letter": 3, "with a person": 1}
    assert verdict.line() == "lost=0 twice=0 torn=0 order=0"


events = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(FATES), st.booleans()), min_size=1, max_size=25)


def built(story: list[tuple[int, str, bool]]) -> Any:
    """Orders 0 to 5, revision by revision, each by its fate; some are published again at once."""
    world, revisions = World(), dict.fromkeys(range(6), 0)
    for order, fate, again in story:
        revisions[order] += 1
        for _ in range(1 + again):
            world.publish(f"o{order}", revisions[order], fate, order % 2)
    return world


@settings(max_examples=150, deadline=None)
@given(events)
def test_every_correct_history_is_accepted(story: list[tuple[int, str, bool]]) -> None:
    assert wrongs(check(built(story).evidence())) == {}


# --- a world without anything


def test_an_empty_world_proves_nothing() -> None:
    assert check(Evidence((), (), {})).lost
    assert check(replace(history.typical().evidence(), published=())).lost
    assert check(World().evidence()).lost


def test_a_world_without_its_private_topics_proves_nothing() -> None:
    evidence = history.typical().evidence()
    without = {name: topic for name, topic in evidence.topics.items() if name != f"{TRANSFORM}.marks"}
    assert any(f"no topic {TRANSFORM}.marks" in wrong.why for wrong in check(replace(evidence, topics=without)).lost)


# --- each defect


def acknowledged_but_not_there(world: Any) -> None:
    world.published.append(Published("99/1", "99", "good", True, SOURCE, 0, 99_999))


def without_any_trace_after_ingest(world: Any) -> None:
    """The position moved on, and the transaction's other parts are not there."""
    lost = world.find(SOURCE, lambda record: record.body == {"order_id": "12", "revision": 3})
    world.unmark(INGEST, lost.event)
    for topic in (TRANSFORM, DECISION, ACTION, "runs"):
        for record in list(world.topics[topic]):
            if run("12/3") in (record.id or ""):
                world.drop(topic, record)
    for stage, event in ((TRANSFORM, ""), (DECISION, "prepared-"), (ACTION, "c-"), (DECISION, "o-")):
        tail = "" if event in ("", "prepared-") else "/invoice/r1"
        world.unmark(stage, f"{event}{run('12/3')}{tail}")
    world.drop(f"{FLOW}.done", world.find(f"{FLOW}.done", lambda record: run("12/3") in record.id))
    world.effects = [effect for effect in world.effects if effect.reference != "12/3"]


def a_position_before_the_end(world: Any) -> None:
    last = max(record.offset for record in world.topics[TRANSFORM] if record.partition == 0)
    world.positions[TRANSFORM, 0] = last


def done_without_an_effect(world: Any) -> None:
    world.effects = [effect for effect in world.effects if effect.reference != "11/2"]


def an_effect_twice(world: Any) -> None:
    world.effects.append(replace(world.effects[0], id=99))


def an_effect_twice_by_another_key(world: Any) -> None:
    world.effects.append(replace(world.effects[0], id=99, key=f"{run('10/1')}/invoice/r2"))


def an_effect_of_a_dead_letter(world: Any) -> None:
    effect = replace(world.effects[0], id=99, reference="17/1", key=f"{run('17/1')}/invoice/r1")
    world.effects.append(effect)


def an_effect_of_nothing(world: Any) -> None:
    world.effects.append(replace(world.effects[0], id=99, reference="77/1", key=f"{run('77/1')}/invoice/r1"))


def a_mark_without_its_output(world: Any) -> None:
    gone = world.find(DECISION, lambda record: record.cause == run("10/2"))
    world.drop(DECISION, gone)
    world.unmark(DECISION, gone.event)


def an_output_without_the_mark_of_its_input(world: Any) -> None:
    world.unmark(TRANSFORM, run("10/2"))


def an_output_twice(world: Any) -> None:
    outcome = world.find(DECISION, lambda record: record.contract == OUTCOME and run("10/2") in record.id)
    world.add(DECISION, 0, outcome.event, key=outcome.key, cause=outcome.cause)


def an_input_done_twice(world: Any) -> None:
    world.add(f"{TRANSFORM}.marks", 0, value=digest_of(run("10/2")))


def a_mark_of_nothing(world: Any) -> None:
    world.add(f"{ACTION}.marks", 1, value=bytes(16))


def a_mark_before_its_position(world: Any) -> None:
    world.positions[ACTION, 0] = 0


def no_position(world: Any) -> None:
    world.positions[f"{FLOW}.decision", 1] = None


def something_that_still_waits(world: Any) -> None:
    record = world.find(DECISION, lambda each: each.event == f"prepared-{run('13/1')}")
    world.unmark(DECISION, record.event)
    world.pin(DECISION, record, b"D")
    world.rows[f"{DECISION}.delayed"][record.partition, bytes(8)] = b"row"
    for each in [each for each in world.topics["runs"] if each.cause == record.event]:
        world.drop("runs", each)


def a_waiting_pin_without_its_row(world: Any) -> None:
    something_that_still_waits(world)
    world.rows[f"{DECISION}.delayed"].clear()


def a_letter_without_its_pin(world: Any) -> None:
    record = world.find(SOURCE, lambda each: each.body == {"order_id": "14", "revision": 1})
    del world.rows[f"{INGEST}.state"][record.partition, b"m/" + digest_of(record.event)]


def a_pin_without_its_letter(world: Any) -> None:
    record = world.find(SOURCE, lambda each: each.body is None)
    letter = world.find("dead-letters", lambda each: each.cause == record.event)
    world.drop("dead-letters", letter)
    world.unmark("recovery.letters", letter.event)
    world.drop("recovery.states", world.find("recovery.states", lambda each: each.cause == letter.event))


def a_letter_of_something_done(world: Any) -> None:
    """The same transaction can't have made an output and a letter."""
    record = world.find(TRANSFORM, lambda each: each.event == run("11/1"))
    world.letter(TRANSFORM, record, TRANSFORM, run=run("11/1"))


def a_hole_in_a_run(world: Any) -> None:
    world.drop("runs", world.find("runs", lambda each: each.id == f"{run('12/2')}-2"))


def a_run_that_ends_twice(world: Any) -> None:
    again = world.find("runs", lambda each: each.id == f"{run('12/2')}-3")
    world.add("runs", 0, f"{run('12/2')}-4", cause=again.cause, body={**again.body, "sequence": 4, "previous": "done"})


def no_result(world: Any) -> None:
    world.drop(f"{FLOW}.done", world.find(f"{FLOW}.done"))


def an_open_effect(world: Any) -> None:
    world.rows[f"{ACTION}.state"][0, b"t/effects/" + run("10/1").encode()] = b"row"


def an_open_transaction(world: Any) -> None:
    world.hidden["runs"] = (1,)


def a_failed_outcome_with_an_effect(world: Any) -> None:
    """Billing has it, so the run should have been found out to be done."""
    outcome = world.find(DECISION, lambda each: each.contract == OUTCOME and run("16/1") in each.id)
    world.change(DECISION, outcome, body={**outcome.body, "status": "failed"})
    world.effects.append(replace(world.effects[0], id=99, reference="16/1", key=f"{run('16/1')}/invoice/r1"))


def a_key_out_of_order_inside(world: Any) -> None:
    first, second = (world.find(DECISION, lambda each, of=of: each.cause == run(of)) for of in ("10/1", "10/2"))
    world.swap(DECISION, first, second)


def a_key_out_of_order_in_the_books(world: Any) -> None:
    first, second = (next(each for each in world.effects if each.reference == of) for of in ("10/1", "10/2"))
    world.effects[world.effects.index(first)] = replace(second, id=first.id)
    world.effects[world.effects.index(second)] = replace(first, id=second.id)


def a_first_failure_that_nobody_was_told_of(world: Any) -> None:
    """With its mark and its transition, as by a build that does not tell it."""
    world.publish("60", 1, "retried")
    notice = world.find(DECISION, lambda each: each.contract == NOTICE)
    world.drop(DECISION, notice)
    world.unmark(DECISION, notice.event)
    told = world.find("runs", lambda each: each.cause == notice.event)
    last = world.find("runs", lambda each: each.id == f"{run('60/1')}-4")
    world.drop("runs", told)
    world.change("runs", last, id=told.id, body={**last.body, "sequence": 3})


def a_first_failure_that_is_told_after_its_outcome(world: Any) -> None:
    world.publish("60", 1, "retried")
    notice, outcome = (
        world.find(DECISION, lambda each, of=of: each.contract == of and each.body and each.body["run"] == run("60/1"))
        for of in (NOTICE, OUTCOME)
    )
    world.swap(DECISION, notice, outcome)


def a_key_out_of_order_after_a_first_failure(world: Any) -> None:
    """The notice came in time, and the outcome after that of the next command."""
    world.publish("60", 1, "retried")
    world.publish("60", 2)
    first, second = (
        world.find(DECISION, lambda each, of=of: each.contract == OUTCOME and each.body["run"] == run(of))
        for of in ("60/1", "60/2")
    )
    world.swap(DECISION, first, second)


DEFECTS: list[tuple[Callable[[Any], None], dict[str, str]]] = [
    (acknowledged_but_not_there, {"lost": "was acknowledged, and it is not there"}),
    (without_any_trace_after_ingest, {"lost": "12/3: it ended nowhere", "torn": "has passed it"}),
    (a_position_before_the_end, {"lost": "is not handled", "torn": "the position .* is not behind it"}),
    (done_without_an_effect, {"lost": "11/2: done, and no effect", "torn": "is verified, and there is no effect"}),
    (an_effect_twice, {"twice": "10/1: 2 effects in the books"}),
    (an_effect_twice_by_another_key, {"twice": "10/1: 2 effects", "torn": "no command of it"}),
    (an_effect_of_a_dead_letter, {"torn": "17/1: a dead letter, and there is an effect"}),
    (an_effect_of_nothing, {"twice": "nobody published it", "torn": "no command of it"}),
    (a_mark_without_its_output, {"torn": f"{TRANSFORM}.*it is done, and there is no output"}),
    (an_output_without_the_mark_of_its_input, {"torn": "its cause .* has no mark"}),
    (an_output_twice, {"twice": "was there before"}),
    (an_input_done_twice, {"twice": f"{TRANSFORM}.*marked as done 2 times"}),
    (a_mark_of_nothing, {"torn": "belongs to no input"}),
    (a_mark_before_its_position, {"lost": "is not handled", "torn": "is not behind it"}),
    (no_position, {"torn": "no position"}),
    (something_that_still_waits, {"lost": "it still waits"}),
    (a_waiting_pin_without_its_row, {"lost": "it still waits", "torn": "0 delayed records"}),
    (a_letter_without_its_pin, {"torn": "there is a letter of generation 1, and it is without a mark"}),
    (a_pin_without_its_letter, {"lost": "ended nowhere", "torn": "there is no letter"}),
    (a_letter_of_something_done, {"torn": "it is a dead letter, and there is an output", "twice": "in two places"}),
    (a_hole_in_a_run, {"torn": "holes or repetitions"}),
    (a_run_that_ends_twice, {"twice": "12/2.*ended 2 times"}),
    (no_result, {"torn": "no result"}),
    (an_open_effect, {"lost": "is still open"}),
    (an_open_transaction, {"torn": "an open transaction hides its end"}),
    (a_failed_outcome_with_an_effect, {"torn": "is failed, and there is an effect"}),
    (a_key_out_of_order_inside, {"order": "which came later"}),
    (a_first_failure_that_nobody_was_told_of, {"torn": "60/1.*failed first at 5, and before it None was told"}),
    (a_first_failure_that_is_told_after_its_outcome, {"torn": "no outcome follows", "order": "which came later"}),
    (a_key_out_of_order_after_a_first_failure, {"order": f"{ACTION}.*which came later"}),
    (a_key_out_of_order_in_the_books, {"order": "published later|came later"}),
]


@pytest.mark.parametrize(("defect", "wanted"), DEFECTS, ids=[defect.__name__ for defect, _ in DEFECTS])
def test_each_defect_is_found_by_its_checks_and_by_no_other(
    defect: Callable[[Any], None], wanted: dict[str, str]
) -> None:
    world = history.typical()
    defect(world)
    verdict = check(world.evidence())
    assert set(verdict.caught) == set(wanted), wrongs(verdict)
    for name, pattern in wanted.items():
        assert any(re.search(pattern, text) for text in wrongs(verdict)[name]), wrongs(verdict)


# --- what is not demanded


def test_an_unacknowledged_record_may_be_there_or_not_but_not_twice() -> None:
    world = history.typical()
    world.published.append(Published("50/1", "50", "good", False, SOURCE))
    assert wrongs(check(world.evidence())) == {}
    world.publish("50", 1)
    world.published.pop()
    assert wrongs(check(world.evidence())) == {}
    world.effects.append(replace(world.effects[-1], id=99))
    assert check(world.evidence()).caught == ("twice",)


def test_an_unacknowledged_record_that_is_there_must_end() -> None:
    world = history.typical()
    world.published.append(Published("50/1", "50", "good", False, SOURCE))
    world.add(SOURCE, 0, key=b"50", body={"order_id": "50", "revision": 1})
    assert any("50/1" in text for text in wrongs(check(world.evidence()))["lost"])


def test_what_was_a_dead_letter_may_come_later_than_what_followed_it() -> None:
    """A key is not held back behind a dead letter: docs/guarantees.md, section 3."""
    world = World()
    world.publish("10", 1, "failed")
    world.publish("10", 2)
    world.replay(run("10/1"), "10/1", world.find(DECISION, lambda each: each.contract == OUTCOME))
    assert [effect.reference for effect in world.effects] == ["10/2", "10/1"]
    assert wrongs(check(world.evidence())) == {}


def test_keys_have_no_order_among_each_other() -> None:
    world = World()
    world.publish("10", 1)
    world.publish("11", 1)
    for place in (0, 1):  # the prepared event, then the outcome
        records = world.topics[DECISION]
        world.swap(DECISION, records[place], records[place + 2])
    one, other = world.effects
    world.effects = [replace(other, id=1), replace(one, id=2)]
    assert wrongs(check(world.evidence())) == {}


# --- the local tables


def test_a_local_table_that_differs_from_kafka_is_torn() -> None:
    evidence = history.typical().evidence()
    marks = {
        record.value or b""
        for record in evidence.topic(f"{TRANSFORM}.marks").records
        if record.partition == 0 and record.value
    }
    right = replace(evidence, tables={(TRANSFORM, 0): Table({}, {}, frozenset(marks))})
    assert wrongs(check(right)) == {}
    for table in (
        Table({b"row": b""}, {}, frozenset(marks)),
        Table({}, {bytes(8): b"row"}, frozenset(marks)),
        Table({}, {}, frozenset(marks) | {bytes(16)}),
    ):
        assert check(replace(evidence, tables={(TRANSFORM, 0): table})).caught == ("torn",)


# --- a scenario's own stage


def copies() -> Any:
    """A stage that copies and counts: three revisions of two keys."""
    world = World(stages=(history.copying(),))
    for key in ("a", "b"):
        for number in (1, 2, 3):
            identity, body = f"{key}/{number}", {"order_id": key, "revision": number}
            record = world.add("copy.in", 0, identity, key=key.encode(), body=body)
            world.published.append(Published(identity, key, "good", True, "copy.in", 0, record.offset, number))
            world.mark("copy", record)
            sent = {"dedupe": {"order_id": key, "revision": str(number)}, "sequence": number}
            world.add("copy.out", 0, f"o-{identity}", key=key.encode(), cause=identity, body=sent)
    return world


def copied(world: Any) -> Evidence:
    return replace(world.evidence(), effects=None)


def test_a_scenarios_stage_is_judged_by_the_same_rules() -> None:
    assert wrongs(check(copied(copies()))) == {}


def test_a_scenarios_stage_that_loses_its_table_counts_anew() -> None:
    world = copies()
    last = world.find("copy.out", lambda each: each.cause == "b/3")
    world.change("copy.out", last, body={**last.body, "sequence": 1})
    assert wrongs(check(copied(world))) == {"torn": ["copy.out b: its numbers are 1, 2, 1: holes or repetitions"]}


def test_a_scenarios_stage_that_overtakes_is_out_of_order() -> None:
    world = copies()
    one, other = (world.find("copy.out", lambda each, of=of: each.cause == of) for of in ("a/2", "a/3"))
    world.swap("copy.out", one, other)
    assert check(copied(world)).caught == ("order",)


# --- any defect, anywhere


@settings(max_examples=300, deadline=None)
@given(events, st.data())
def test_whatever_record_is_missing_is_missed(story: list[tuple[int, str, bool]], data: st.DataObject) -> None:
    """Of the topics that one commit writes together, no record can go without being noticed."""
    world = built(story)
    evidence = world.evidence()
    written = [
        name
        for stage in world.stages
        for name in (f"{stage.name}.marks", f"{stage.name}.state", *stage.outputs, stage.dead_letters)
        if evidence.topic(name).records and name not in (f"{FLOW}.decision.replay", "recovery.states", "tasks")
    ]
    name = data.draw(st.sampled_from(sorted(set(written) - {"recovery.letters.state"})))
    topic = evidence.topic(name)
    record = data.draw(st.sampled_from(topic.records))
    without = Topic(name, tuple(each for each in topic.records if each is not record), topic.ends)
    verdict = check(replace(evidence, topics={**evidence.topics, name: without}))
    assert not verdict.holds, f"{name} without {record}"


@settings(max_examples=300, deadline=None)
@given(events, st.data())
def test_whatever_record_is_there_twice_is_noticed(story: list[tuple[int, str, bool]], data: st.DataObject) -> None:
    world = built(story)
    evidence = world.evidence()
    names = {f"{stage.name}.marks" for stage in world.stages} | {
        name for stage in world.stages for name in stage.outputs
    }
    name = data.draw(st.sampled_from(sorted(name for name in names if evidence.topic(name).records)))
    topic = evidence.topic(name)
    record = data.draw(st.sampled_from(topic.records))
    again = Topic(name, (*topic.records, replace(record, offset=record.offset + 1)), topic.ends)
    verdict = check(replace(evidence, topics={**evidence.topics, name: again}))
    assert "twice" in verdict.caught or "torn" in verdict.caught, f"{name} with {record} twice"
