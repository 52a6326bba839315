"""Hypothesis chooses what happens to the model's world; after each step, and once all is healed, it is judged."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from handrail.identity import partition_for
from handrail.log import Outgoing
from handrail.testing.model.checks import DELAYS, FOREIGN, MARKS, STATE, Checker
from handrail.testing.model.subject import FAILURES, KINDS, LETTERS, OUT, PARTITIONS, STAGE
from handrail.testing.model.world import ORDINALS, Process, Subject, World

KEYS = ("a", "b", "d", "f")  # two of each partition
POINTS = (
    "during-restore", "after-consume", "after-decode", "after-handle", "before-produce", "after-produce",
    "after-offsets", "before-commit", "in-commit", "after-commit", "after-apply", "after-intent", "after-call",
    "in-revoke",
)  # fmt: skip
INPUTS = st.tuples(
    st.sampled_from(KEYS),
    st.sampled_from(KINDS),
    st.sampled_from((None, None, None, *FAILURES, "torn")),
)
FATES = ("produce", "aborted", "unknown", "late", "slow")
HOUR_MS = 3_600_000
FARTHEST_H = 72  # how far the broker's clock may be off: less than the window of the marks
MEANWHILE = ("others", "taken over", "usurped", "late commit", "time", "foreign", "zombies")
_QUIET = 6


class StageModel(RuleBasedStateMachine):
    """One stage of two processes on a broker of two partitions."""

    subject: ClassVar[Subject]
    steps: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.subject)
        self.checker = Checker(self.world)
        self.world.has_intent = self.checker.has_intent
        self._depth = 0
        self._foreigners = 0
        self._fresh = 0

    @initialize()
    def begin(self) -> None:
        for ordinal in ORDINALS:
            self.world.start(ordinal)
        for _ in range(3):
            self._step_all()

    def _step_all(self) -> bool:
        stepped = [self.world.step(process) for process in self.world.processes()]
        return any(stepped)

    def _process(self, number: int) -> Process:
        """One of those that run; when none does, one starts."""
        processes = self.world.processes()
        if not processes:
            return self.world.start(number % 2)
        return processes[number % len(processes)]

    def _count(self, name: str) -> None:
        self.steps[name] += 1

    # --- input

    @rule(inputs=st.lists(INPUTS, min_size=1, max_size=5))
    def publish(self, inputs: list[tuple[str, str, str | None]]) -> None:
        self._count("publish")
        for each in inputs:
            self._publish(*each)

    def _publish_for(self, process: Process, key: str, kind: str, failure: str | None) -> None:
        """Of a partition that this process has, if it has any."""
        owned = process.driver.stage._owned
        keys = [each for each in KEYS if partition_for(each, PARTITIONS) in owned] or [key]
        self._publish(keys[KEYS.index(key) % len(keys)], kind, failure)

    def _publish(self, key: str, kind: str, failure: str | None) -> None:
        made = self.world.new_input(key, kind, torn=failure == "torn")
        if failure is not None and not made.torn:
            self.world.failing[made.id] = failure
        self.world.publish(made)

    @precondition(lambda self: self.world.inputs)
    @rule(numbers=st.lists(st.integers(0, 50), min_size=1, max_size=3))
    def publish_again(self, numbers: list[int]) -> None:
        self._count("duplicate")
        sure = [each for each in self.world.inputs.values() if each.id not in self.world.unsure]
        for number in numbers if sure else ():
            self.world.publish(sure[-1 - number % len(sure)])

    @rule(number=st.integers(0, 50))
    def mend(self, number: int) -> None:
        self._count("mend")
        if failing := list(self.world.failing):
            del self.world.failing[failing[number % len(failing)]]

    @precondition(lambda self: self.checker.seen.bodies)
    @rule(number=st.integers(0, 50), other=st.sampled_from((0, 0, 0, -1, 1)), mended=st.booleans())
    def replay(self, number: int, other: int, mended: bool) -> None:
        """Any letter again, also twice, also of an older generation."""
        self._count("replay")
        bodies = self.checker.seen.bodies
        event = list(bodies)[number % len(bodies)]
        if mended:
            self.world.failing.pop(event, None)
        self.world.replay(bodies[event], max(1, bodies[event]["generation"] + other))

    # --- processes

    @rule(number=st.integers(0, 5), times=st.integers(1, 3))
    def step(self, number: int, times: int) -> None:
        self._count("step")
        process = self._process(number)
        for _ in range(times):
            self.world.step(process)

    @rule(times=st.integers(1, 3))
    def step_all(self, times: int) -> None:
        self._count("step all")
        for _ in range(times):
            self.world.supervise()
            self._step_all()

    @rule(number=st.integers(0, 5), point=st.sampled_from(POINTS), keep=st.booleans(), given=INPUTS)
    def crash_at(self, number: int, point: str, keep: bool, given: tuple[str, str, str | None]) -> None:
        """Kill a process at a point of its loop, then start it again, with or without its disk."""
        self._count(f"crash at {point}")
        process = self._process(number)
        self._publish_for(process, *given)

        process.script[point] = process.driver.die
        for _ in range(3):
            self.world.step(process)
        process.script.pop(point, None)
        if not process.alive and process.ordinal not in self.world.running:
            self.world.start(process.ordinal, process.home if keep else None)

    @rule(number=st.integers(0, 5))
    def crash(self, number: int) -> None:
        """A process ends and stays away."""
        self._count("crash")
        self.world.kill(self._process(number))

    @rule(ordinal=st.sampled_from(ORDINALS))
    def start(self, ordinal: int) -> None:
        """A process starts; if there is one of its name, that is a zombie now."""
        self._count("start")
        self.world.start(ordinal)

    @rule(
        number=st.integers(0, 5),
        point=st.sampled_from(POINTS),
        meanwhile=st.lists(st.sampled_from(MEANWHILE), min_size=1, max_size=4),
        given=INPUTS,
    )
    def suspend_at(self, number: int, point: str, meanwhile: list[str], given: tuple[str, str, str | None]) -> None:
        """A process stands still at a point of its loop while others go on."""
        self._count(f"suspend at {point}")
        process = self._process(number)
        self._publish_for(process, *given)
        process.script[point] = lambda: self._others(process, meanwhile)
        for _ in range(2):
            self.world.step(process)
        process.script.pop(point, None)

    def _others(self, process: Process, what: list[str]) -> None:
        if self._depth:
            return
        self._depth += 1
        for each in what:
            self._other(process, each)
        self._depth -= 1

    def _run(self, processes: list[Process]) -> None:
        for _ in range(3):
            for each in processes:
                self.world.step(each)

    def _other(self, process: Process, what: str) -> None:
        world = self.world
        others = [each for each in world.running.values() if each is not process]
        match what:
            case "others":
                self._run(others)
            case "zombies":
                self._run([each for each in world.zombies if each is not process])
            case "taken over":
                world.expel(process.ordinal)
                self._run(others)
            case "usurped":
                if world.running.get(process.ordinal, process) is process:
                    self._run([world.start(process.ordinal)])
            case "late commit":
                self._land(0)
            case "time":
                world.pass_time(16_000)
            case "foreign":
                if world.foreign:
                    world.end_foreign(next(iter(world.foreign)), commit=False)

    @rule(ordinal=st.sampled_from(ORDINALS), rebalance=st.booleans())
    def expel(self, ordinal: int, rebalance: bool) -> None:
        """A session times out, or the group shares its partitions out anew."""
        self._count("rebalance" if rebalance else "expel")
        if rebalance:
            self.world.group.rebalance()
        else:
            self.world.expel(ordinal)

    @rule(number=st.integers(0, 5))
    def answer(self, number: int) -> None:
        """Calls are answered."""
        self._count("answer")
        self._process(number).desk.answer()

    # --- commits and transactions

    @rule(
        number=st.integers(0, 5),
        fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=2),
        meanwhile=st.lists(st.sampled_from((None, None, "late commit", *MEANWHILE)), max_size=4),
        given=INPUTS,
    )
    def next_commits(
        self, number: int, fates: list[Any], meanwhile: list[str | None], given: tuple[str, str, str | None]
    ) -> None:
        """The next commits of a process have these fates; whenever it waits for the broker, something else happens."""
        process = self._process(number)
        plan = iter(meanwhile)

        def others() -> None:
            if not self._depth and (what := next(plan, None)) is not None:
                self._others(process, [what])

        self.world.broker.meanwhile = others
        for fate in fates:
            self._count(f"commit {fate}")
            self._publish_for(process, *given)
            process.driver.log.fail_next = fate
            self.world.step(process)
        self.world.step(process)
        self.world.broker.meanwhile = lambda: None

    @rule(number=st.integers(0, 5), fate=st.sampled_from((None, *FATES)), given=INPUTS)
    def copy_meets_the_next(self, number: int, fate: Any, given: tuple[str, str, str | None]) -> None:
        """A copy of a slow commit is still under way, and arrives in the midst of the next transaction."""
        self._count("copy of a commit")
        process = self._process(number)
        for each in ("slow", fate):
            self._publish_for(process, *given)
            process.driver.log.fail_next = each
            self.world.step(process)
            self.world.broker.meanwhile = lambda: self._land(-1)
        self.world.broker.meanwhile = lambda: None

    @rule(number=st.integers(0, 5))
    def land(self, number: int) -> None:
        """A commit that was under way arrives."""
        self._count("late commit")
        self._land(number)

    def _land(self, number: int) -> None:
        transactions = self.world.broker.transactions
        if transactions.in_flight:
            transactions.deliver(transactions.in_flight[number % len(transactions.in_flight)])

    @precondition(lambda self: len(self.world.foreign) < 2)
    @rule(
        topic=st.sampled_from((f"{STAGE}.in", STATE, MARKS, DELAYS, OUT, LETTERS)),
        partition=st.integers(0, PARTITIONS - 1),
        key=st.sampled_from(KEYS),
    )
    def foreign_begins(self, topic: str, partition: int, key: str) -> None:
        """Somebody else's transaction is open in one of the topics."""
        self._count("foreign begins")
        self._foreigners += 1
        name = f"foreign-{self._foreigners}"
        if topic == f"{STAGE}.in":
            made = self.world.new_input(key, "plain", torn=False)
            self.world.unsure[made.id] = name
            self.world.open_foreign(name, made.record(self.subject.contracts))
        else:
            self.world.open_foreign(name, Outgoing(topic, partition, FOREIGN * 8, FOREIGN * 8))

    @precondition(lambda self: self.world.foreign)
    @rule(number=st.integers(0, 5), commit=st.booleans())
    def foreign_ends(self, number: int, commit: bool) -> None:
        self._count("foreign ends")
        self._end_foreign(list(self.world.foreign)[number % len(self.world.foreign)], commit)

    def _end_foreign(self, name: str, commit: bool) -> None:
        ours = any(owner == name for owner in self.world.unsure.values())
        self.world.end_foreign(name, commit and ours)  # nobody else commits into our private topics

    # --- time

    @rule(
        ms=st.sampled_from((1_000, 5_000, 20_000, 60_000)),
        jump=st.one_of(st.none(), st.none(), st.integers(-FARTHEST_H, FARTHEST_H)),
    )
    def time(self, ms: int, jump: int | None) -> None:
        """Time passes; the broker's clock may jump."""
        self._count("time" if jump is None else "clock jump")
        self.world.pass_time(ms)
        if jump is not None:
            self.world.broker.now = self.world.clock.now() + jump * HOUR_MS

    @rule(topic=st.sampled_from((STATE, DELAYS, f"{STAGE}.in")))
    def clean(self, topic: str) -> None:
        """Compaction of a changelog; or what the stage is done with expires from its inbox."""
        self._count(f"clean {topic}")
        if topic != f"{STAGE}.in":
            self.world.broker.compact(topic)
            return
        for partition in range(PARTITIONS):
            self.world.broker.log((topic, partition)).drop_before(self.world.broker.offsets[STAGE, partition])

    # --- judging

    @invariant()
    def holds(self) -> None:
        self.checker.check()

    def teardown(self) -> None:
        try:
            self.heal()
        finally:
            self.world.close()

    def heal(self) -> None:
        """All trouble ends; everything is drained; then dead letters are replayed, and every input comes once more."""
        world = self.world
        deadly = {event: how for event, how in world.failing.items() if how == "deadly"}
        world.failing.clear()
        world.failing.update(deadly)
        for name in list(world.foreign):
            self._end_foreign(name, commit=True)
        for process in list(world.zombies):
            world.step(process)
            world.kill(process)
        for ordinal in ORDINALS:
            if ordinal not in world.running:
                world.start(ordinal)
        self._drain()
        world.failing.clear()
        for event, letter in self.checker.seen.bodies.items():
            world.replay(letter, letter["generation"])
            assert event in world.inputs
        self._drain()
        for given in list(world.inputs.values()):
            if world.unsure.get(given.id) is None:
                world.publish(given)
        self._drain()
        self.checker.check_end()

    def _drain(self) -> None:
        """Until nothing more happens, however long it waits."""
        quiet = 0
        for _ in range(300):
            for process in list(self.world.running.values()):
                process.desk.answer()
            busy = self._step_all()
            busy = self.world.supervise() or busy
            for ordinal in ORDINALS:
                if ordinal not in self.world.running:
                    busy = True
                    self.world.start(ordinal)
            self.world.pass_time(16_000)
            self.checker.check()
            quiet = 0 if busy else quiet + 1
            if quiet > _QUIET:
                return
        raise AssertionError(f"it does not come to rest; deaths: {self.world.deaths[-5:]}")


def model(subject: Subject) -> type[StageModel]:
    """The model of this subject; its `steps` counts what was done, by kind, over all examples."""
    return type("Model", (StageModel,), {"subject": subject, "steps": Counter()})
