"""What waits: never before its time, in the order of its key, and nothing forgotten."""

from __future__ import annotations

from handrail.waiting import Waiting
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule


def test_only_the_head_of_a_key_becomes_due() -> None:
    waiting = Waiting()
    waiting.add(1, "a", 100, 0)
    waiting.add(2, "a", 0, 0)
    waiting.add(3, "b", 50, 0)
    assert waiting.next_due() == 50
    assert list(waiting.due_records(99, 10)) == [3]
    assert list(waiting.due_records(100, 10)) == [1]
    waiting.remove(1)
    assert waiting.blocked("a")
    assert list(waiting.due_records(100, 10)) == [2]
    waiting.remove(2)
    assert not waiting.blocked("a")


def test_the_next_of_a_key_comes_in_the_same_round_once_its_head_is_through() -> None:
    waiting = Waiting()
    for n in (1, 2, 3):
        waiting.add(n, "a", 0, 0)
    seen = []
    for sequence in waiting.due_records(0, 10):
        seen.append(sequence)
        waiting.remove(sequence)
    assert seen == [1, 2, 3]
    assert len(waiting) == 0


def test_a_timer_that_was_moved_or_cancelled_does_not_come_at_its_old_time() -> None:
    waiting = Waiting()
    waiting.set_timer(b"x", 10)
    waiting.set_timer(b"x", 20)
    waiting.set_timer(b"y", 10)
    waiting.set_timer(b"y", None)
    assert waiting.next_due() == 20
    assert list(waiting.due_timers(19, 10)) == []
    assert list(waiting.due_timers(20, 10)) == [(b"x", 20)]
    assert list(waiting.due_timers(20, 10)) == []


def test_sequences_go_on_behind_everything_that_waits() -> None:
    waiting = Waiting()
    waiting.add(41, "a", 0, 0)
    assert waiting.next_sequence() == 42


@given(st.lists(st.tuples(st.integers(0, 50), st.sampled_from([b"a", b"b", b"c"]), st.booleans())))
def test_every_timer_comes_once_at_its_last_time(moves: list[tuple[int, bytes, bool]]) -> None:
    waiting, wanted = Waiting(), dict[bytes, int]()
    for due_at, row, keep in moves:
        waiting.set_timer(row, due_at if keep else None)
        wanted.pop(row, None)
        if keep:
            wanted[row] = due_at
    came = {}
    for now in range(51):
        for row, due_at in waiting.due_timers(now, 100):
            assert due_at == now
            assert row not in came
            came[row] = due_at
    assert came == wanted


class Queues(RuleBasedStateMachine):
    """Against the plain model: per key a list of [sequence, due]."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting, self.model, self.now = Waiting(), dict[str, list[list[int]]](), 0

    @rule(key=st.sampled_from("abc"), wait=st.integers(0, 20))
    def delay(self, key: str, wait: int) -> None:
        sequence = self.waiting.next_sequence()
        behind = self.waiting.blocked(key)
        assert behind == (key in self.model)
        due_at = 0 if behind else self.now + wait
        self.waiting.add(sequence, key, due_at, 0)
        self.model.setdefault(key, []).append([sequence, due_at])

    @rule(passed=st.integers(0, 15))
    def time_passes(self, passed: int) -> None:
        self.now += passed

    @rule(fails=st.lists(st.booleans(), min_size=40, max_size=40), limit=st.integers(1, 10), wait=st.integers(1, 9))
    def attempts(self, fails: list[bool], limit: int, wait: int) -> None:
        taken = 0
        for sequence in self.waiting.due_records(self.now, limit):
            taken += 1
            key = next(key for key, rows in self.model.items() if rows[0][0] == sequence)
            head = self.model[key][0]
            assert head[1] <= self.now
            if fails[taken % 40]:
                head[1] = self.now + wait
                self.waiting.again(sequence, head[1])
            else:
                self.model[key].pop(0)
                if not self.model[key]:
                    del self.model[key]
                self.waiting.remove(sequence)
        assert taken <= limit
        due = [rows[0] for rows in self.model.values() if rows[0][1] <= self.now]
        assert not due or taken == limit, "whatever is due and fits is taken"

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert len(self.waiting) == sum(len(rows) for rows in self.model.values())
        heads = [rows[0][1] for rows in self.model.values()]
        assert self.waiting.next_due() == (min(heads) if heads else None)


TestQueues = Queues.TestCase
