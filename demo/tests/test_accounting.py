"""The accounting holds when each thing is in exactly one place, and only then."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from handrail_demo.accounting import Accounts, LetterSeen, RunSeen, account
from handrail_demo.manifest import Entry
from hypothesis import assume, given
from hypothesis import strategies as st

TOPIC = "ingest.orders.order-accepted"


@dataclass
class World:
    """Everything that can be seen from outside."""

    entries: list[Entry] = field(default_factory=list)
    effects: dict[str, int] = field(default_factory=dict)
    runs: list[RunSeen] = field(default_factory=list)
    letters: list[LetterSeen] = field(default_factory=list)
    by_hand: set[str] = field(default_factory=set)
    run_names: dict[str, str] = field(default_factory=dict)

    def publish(self, identity: str | None) -> Entry:
        entry = Entry(identity, "good", TOPIC, 0, len(self.entries))
        self.entries.append(entry)
        return entry

    def run(self, identity: str, state: str) -> None:
        self.runs.append(RunSeen(f"run-{identity}", identity, state))

    def letter(self, coordinates: str, state: str = "OPEN", run: str | None = None) -> None:
        self.letters.append(LetterSeen(f"letter-{len(self.letters)}", state, coordinates, run))

    def accounts(self) -> Accounts:
        return account(
            self.entries, self.effects, self.runs, self.letters, by_hand=self.by_hand, run_names=self.run_names
        )


def one(*, effects: int = 0, run: str | None = None, letters: tuple[str, ...] = (), by_hand: bool = False) -> Accounts:
    """The accounts of a world with one published thing, 1/1."""
    world = World()
    entry = world.publish("1/1")
    if effects:
        world.effects["1/1"] = effects
    if run:
        world.run("1/1", run)
    for state in letters:
        world.letter(entry.coordinates, state)
    if by_hand:
        world.by_hand.add("1/1")
    return world.accounts()


@pytest.mark.parametrize(
    ("seen", "place"),
    [
        ({"run": "done", "effects": 1}, "done"),
        ({"run": "rejected"}, "rejected"),
        ({"letters": ("OPEN",)}, "dead_letters"),
        ({"letters": ("REPLAYING",)}, "dead_letters"),
        ({"letters": ("OPEN", "OPEN")}, "dead_letters"),
        ({"run": "failed", "letters": ("OPEN",)}, "dead_letters"),
        ({"run": "done-by-hand"}, "by_hand"),
        ({"run": "done-by-hand", "effects": 1}, "by_hand"),
        ({"run": "done-by-hand", "letters": ("MANUAL",)}, "by_hand"),
        ({"letters": ("DISCARDED",)}, "by_hand"),
        ({"by_hand": True}, "by_hand"),
        ({"by_hand": True, "effects": 1}, "by_hand"),
        ({"run": "done", "effects": 1, "letters": ("RESOLVED",)}, "done"),
    ],
)
def test_what_ended_once_is_in_its_place(seen, place: str) -> None:
    accounts = one(**seen)
    assert accounts.holds
    assert getattr(accounts, place) == 1
    assert accounts.wrong == ()


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        ({}, "ended nowhere, 0 effects in the books; no run and no letter"),
        ({"effects": 1}, "ended nowhere, 1 effects"),
        ({"run": "done"}, "done with 0 effects"),
        ({"run": "acting"}, "run run-1/1 is acting"),
        ({"run": "acting", "effects": 1}, "ended nowhere, 1 effects"),
        ({"run": "manual"}, "ended nowhere"),
        ({"run": "failed"}, "ended nowhere"),
        ({"run": "rejected", "effects": 1}, "rejected with 1 effects"),
        ({"letters": ("OPEN",), "effects": 1}, "dead_letters with 1 effects"),
        ({"letters": ("RESOLVED",)}, "letter letter-0 is RESOLVED"),
    ],
)
def test_what_ended_nowhere_or_otherwise_than_it_says_is_lost(seen, why: str) -> None:
    accounts = one(**seen)
    assert (accounts.lost, accounts.twice) == (1, 0)
    assert not accounts.holds
    assert [wrong.name for wrong in accounts.wrong] == ["1/1"]
    assert why in accounts.wrong[0].why


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        ({"run": "done", "effects": 2}, "2 effects in the books"),
        ({"run": "done-by-hand", "effects": 2}, "2 effects in the books"),
        ({"run": "acting", "effects": 3}, "3 effects in the books"),
        ({"run": "done", "effects": 1, "letters": ("OPEN",)}, "in two places, dead_letters and done"),
        ({"run": "rejected", "letters": ("OPEN",)}, "in two places, dead_letters and rejected"),
        ({"run": "done", "effects": 1, "by_hand": True}, "in two places, by_hand and done"),
        ({"letters": ("OPEN", "DISCARDED")}, "in two places, by_hand and dead_letters"),
    ],
)
def test_what_happened_more_than_once_or_is_in_two_places_is_twice(seen, why: str) -> None:
    accounts = one(**seen)
    assert (accounts.lost, accounts.twice) == (0, 1)
    assert not accounts.holds
    assert why in accounts.wrong[0].why


def test_nothing_published_is_nothing_accounted() -> None:
    assert not World().accounts().holds


def test_copies_are_one_thing() -> None:
    world = World()
    world.publish("1/1")
    world.publish("1/1")
    world.run("1/1", "done")
    world.effects["1/1"] = 1
    accounts = world.accounts()
    assert accounts.line() == (
        "ACCOUNTED published=2 distinct=1 done=1 rejected=0 dead_letters=0 by_hand=0 lost=0 twice=0"
    )
    assert accounts.holds


def test_nameless_records_are_each_a_thing_of_their_own() -> None:
    world = World()
    entries = [world.publish(None), world.publish(None)]
    world.letter(entries[0].coordinates)
    accounts = world.accounts()
    assert (accounts.distinct, accounts.dead_letters, accounts.lost) == (2, 1, 1)
    assert accounts.wrong[0].name == f"@{entries[1].coordinates}"


def test_a_letter_of_either_copy_accounts_for_both() -> None:
    world = World()
    world.publish("1/1")
    world.letter(world.publish("1/1").coordinates)
    assert world.accounts().holds


def test_a_letter_of_an_inner_stage_is_known_by_its_run() -> None:
    world = World()
    world.publish("1/1")
    world.run("1/1", "failed")
    world.letter("order-to-invoice.decision/0/7", run="run-1/1")
    assert world.accounts().holds


def test_a_letter_of_a_run_without_a_transition_is_known_by_the_run_it_would_have() -> None:
    world = World()
    world.publish("1/1")
    world.letter("order-to-invoice.transform/0/7", run="run-that-never-was")
    assert not world.accounts().holds
    world.run_names["run-that-never-was"] = "1/1"
    assert world.accounts().holds


def test_an_effect_that_nobody_published_is_one_too_many() -> None:
    world = World()
    world.publish("1/1")
    world.run("1/1", "done")
    world.effects.update({"1/1": 1, "2/1": 1})
    accounts = world.accounts()
    assert (accounts.done, accounts.twice, accounts.holds) == (1, 1, False)
    assert accounts.wrong[0].why == "1 effects in the books, but it was never published"


def test_a_finished_run_that_nobody_published_is_one_too_many() -> None:
    world = World()
    world.publish("1/1")
    world.run("1/1", "rejected")
    world.run("5/0", "done")
    accounts = world.accounts()
    assert (accounts.twice, accounts.holds) == (1, False)


def test_an_effect_and_a_run_of_one_stray_are_one_stray() -> None:
    world = World()
    world.publish("1/1")
    world.run("1/1", "rejected")
    world.run("5/0", "done")
    world.effects["5/0"] = 1
    assert world.accounts().twice == 1


def test_a_letter_of_another_flow_changes_nothing() -> None:
    world = World()
    world.publish("1/1")
    world.run("1/1", "rejected")
    world.letter("ingest.tickets.ticket/0/1")
    world.runs.append(RunSeen("other", None, "done"))
    assert world.accounts().holds


# Whole worlds: whatever ended well holds, and one change of any kind breaks it.

ENDS = st.sampled_from(["done", "rejected", "ingest-letter", "stage-letter", "by-hand", "nameless"])


@st.composite
def good_worlds(draw: st.DrawFn) -> World:
    world = World()
    for number, (end, copies) in enumerate(draw(st.lists(st.tuples(ENDS, st.integers(1, 3)), min_size=1, max_size=12))):
        identity = f"{number}/1"
        if end == "nameless":
            world.letter(world.publish(None).coordinates)
            continue
        entries = [world.publish(identity) for _ in range(copies)]
        if end == "done":
            world.run(identity, "done")
            world.effects[identity] = 1
        elif end == "rejected":
            world.run(identity, "rejected")
        elif end == "ingest-letter":
            for entry in entries:
                world.letter(entry.coordinates)
        elif end == "stage-letter":
            world.run(identity, "failed")
            world.letter(f"action.billing/0/{number}", run=f"run-{identity}")
        else:
            world.run(identity, "done-by-hand")
            if draw(st.booleans()):
                world.effects[identity] = 1
    return world


def state_of(world: World, name: str) -> str | None:
    return next((run.state for run in world.runs if run.identity == name), None)


@given(good_worlds())
def test_a_world_where_everything_ended_once_holds(world: World) -> None:
    accounts = world.accounts()
    assert accounts.holds
    assert accounts.published == len(world.entries)
    assert accounts.distinct == len({entry.name for entry in world.entries})


@given(good_worlds(), st.data())
def test_one_effect_less_of_what_is_done_breaks_it(world: World, data: st.DataObject) -> None:
    done = sorted(name for name in world.effects if state_of(world, name) == "done")
    assume(done)
    del world.effects[data.draw(st.sampled_from(done))]
    accounts = world.accounts()
    assert (accounts.lost, accounts.twice, accounts.holds) == (1, 0, False)


@given(good_worlds(), st.data())
def test_one_effect_more_breaks_it(world: World, data: st.DataObject) -> None:
    names = sorted({entry.name for entry in world.entries if state_of(world, entry.name) != "done-by-hand"})
    assume(names)
    name = data.draw(st.sampled_from(names))
    world.effects[name] = world.effects.get(name, 0) + 1
    assert not world.accounts().holds


@given(good_worlds(), st.data())
def test_one_run_or_letter_forgotten_breaks_it(world: World, data: st.DataObject) -> None:
    decisive = [run for run in world.runs if run.state != "failed"]
    seen = data.draw(st.sampled_from([*decisive, *world.letters]))
    if isinstance(seen, RunSeen):
        world.runs.remove(seen)
    else:
        sharing = [entry.coordinates for entry in world.entries if entry.name == _name(world, seen)]
        world.letters = [other for other in world.letters if other != seen and other.coordinates not in sharing]
    assert world.accounts().lost == 1


@given(good_worlds(), st.data())
def test_one_more_publication_that_went_nowhere_breaks_it(world: World, data: st.DataObject) -> None:
    world.publish(data.draw(st.sampled_from([None, "never/1"])))
    accounts = world.accounts()
    assert (accounts.lost, accounts.holds) == (1, False)


@given(good_worlds(), st.data())
def test_a_second_end_of_another_kind_breaks_it(world: World, data: st.DataObject) -> None:
    entry = data.draw(st.sampled_from(world.entries))
    was = state_of(world, entry.name)
    world.by_hand.add(entry.name)
    accounts = world.accounts()
    assert accounts.holds is (was == "done-by-hand")


@given(good_worlds(), st.randoms(use_true_random=False))
def test_the_order_of_what_was_seen_changes_nothing(world: World, dice) -> None:
    before = world.accounts()
    for seen in (world.entries, world.runs, world.letters):
        dice.shuffle(seen)
    assert world.accounts() == before


@given(good_worlds())
def test_each_count_alone_is_needed_to_hold(world: World) -> None:
    accounts = world.accounts()
    for change in ({"lost": 1}, {"twice": 1}, {"distinct": accounts.distinct + 1}, {"done": accounts.done + 1}):
        assert not replace(accounts, **change).holds


def _name(world: World, letter: LetterSeen) -> str | None:
    return next((entry.name for entry in world.entries if entry.coordinates == letter.coordinates), None)
