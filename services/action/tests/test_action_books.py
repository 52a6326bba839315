"""Random lives of commands against a model of billing that may apply and lose: one outcome each, never a second effect."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import parse_qs, urlsplit

from handrail_action.calls import Job
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def _bench_module() -> Any:
    spec = importlib.util.spec_from_file_location("action_bench", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BENCH = _bench_module()
Fate = Literal[
    "good", "lost", "late", "never", "lie", "500", "500-done", "503", "429", "422", "refused", "garbled", "crowd"
]
FATES: tuple[Fate, ...] = get_args(Fate)


@dataclass
class Billing:
    """Books of invoices by reference. What is under way arrives at its time, whoever sent it."""

    honours_keys: bool = False
    books: Counter[str] = field(default_factory=Counter)
    under_way: list[tuple[int, str]] = field(default_factory=list)

    def arrive(self, now: int) -> None:
        for at, reference in [each for each in self.under_way if each[0] <= now]:
            self.under_way.remove((at, reference))
            self.make(reference)

    def make(self, reference: str) -> None:
        if not (self.honours_keys and self.books[reference]):
            self.books[reference] += 1


class World:
    """The bench, billing, and a worker that (as the real one) begins nothing for an effect that is still under way."""

    def __init__(self, home: Path, **system: Any) -> None:
        self.bench = BENCH.Bench(home, **system)
        self.billing = Billing(honours_keys=system.get("idempotency") == "honoured")
        self.commands: dict[str, int] = {}
        self._quiet_at: dict[str, int] = {}

    @property
    def now(self) -> int:
        now: int = self.bench.clock.now()
        return now

    def command(self, order: str) -> None:
        self.commands[self.bench.command(order, id=f"{order} {len(self.commands)}")] = 0

    def pass_time(self, ms: int) -> None:
        self.bench.clock.advance(ms)
        self.billing.arrive(self.now)
        self.bench.driver.drain()

    def crash(self, share: int) -> None:
        """Calls under way were never sent (share 0), or arrive as late as they may: until dead_at and the settling time."""
        for _, _, job in self.bench.phone.open:
            if job.kind == "call" and share:
                last = job.send_by + job.total_ms + self.bench.system.settle_ms - 1
                at = max(self.now, self.now + (last - self.now) * share // 10)
                self.billing.under_way.append((at, _reference(job)))
        self._quiet_at.clear()
        self.bench.crash()

    def answer(self, fate: Fate) -> None:
        """The oldest call or question that may begin is made, and meets its fate."""
        self.billing.arrive(self.now)
        if not self.bench.phone.open:
            return
        job: Job = self.bench.phone.open[0][2]
        key = _reference(job)
        if self._quiet_at.get(key, 0) > self.now:
            self.pass_time(self._quiet_at[key] - self.now)
        if fate in ("crowd", "refused"):
            self.bench.phone.give(trouble="too-late" if fate == "crowd" else "not-sent")
        elif self.now > job.send_by and job.kind == "verify":
            self.bench.phone.give(trouble="too-late")  # a call may have begun in time, and be under way since
        elif job.kind == "verify":
            self._ask(fate, job)
        else:
            self._call(fate, job)
        self.bench.driver.drain()

    def _ask(self, fate: Fate, job: Job) -> None:
        there = self.billing.books[_reference(job)]
        if fate in ("lost", "late", "never"):
            self.bench.phone.give(trouble="lost")
        elif fate in ("500", "500-done", "503", "429"):
            self.bench.phone.says(int(fate[:3]))
        elif fate == "garbled":
            self.bench.phone.says(200, "<html>")
        elif there:
            self.bench.phone.says(200, BENCH.invoice(_reference(job).partition("/")[0]))
        else:
            self.bench.phone.says(404)

    def _call(self, fate: Fate, job: Job) -> None:
        reference = _reference(job)
        phone = self.bench.phone
        if fate in ("good", "lost", "500-done", "garbled"):
            self.billing.make(reference)
        if fate in ("good", "lie"):
            phone.says(201, BENCH.invoice(reference.partition("/")[0]))
        elif fate == "garbled":
            phone.says(201, "<html>")
        elif fate in ("500", "500-done", "503", "422"):
            phone.says(int(fate[:3]))
        elif fate == "429":
            phone.says(429, retry_after="3")
        else:
            settled = self.now + self.bench.system.settle_ms
            if fate == "late":
                self.billing.under_way.append((settled - 1, reference))
            if self.now > job.send_by + job.total_ms:
                self._quiet_at[reference] = settled  # the clock jumped while it was under way
            phone.give(trouble="lost")

    def come_to_rest(self) -> None:
        """Billing is well again, and everybody waits for as long as it takes."""
        for _ in range(3_000):
            open_ = self.bench.phone.open
            if open_:
                self.answer("good")
            elif len(self.bench.outcomes()) >= len(self.commands):
                break
            else:
                self.pass_time(250)
        self.pass_time(86_400_000)
        while self.bench.phone.open:
            self.answer("good")


def _reference(job: Job) -> str:
    """What the job is about."""
    if job.body is not None:
        reference: str = json.loads(job.body)["reference"]
        return reference
    return parse_qs(urlsplit(job.url).query)["reference"][0]


STEPS = st.one_of(
    st.tuples(st.just("answer"), st.sampled_from(FATES)),
    st.tuples(st.just("wait"), st.sampled_from([1, 100, 250, 300, 1_000, 5_000, 7_299, 7_300])),
    st.tuples(st.just("jump"), st.sampled_from([60_000, 3_600_000])),
    st.tuples(st.just("crash"), st.sampled_from([0, 5, 10])),
    st.tuples(st.just("abort"), st.sampled_from(["aborted", "unknown"])),
    st.tuples(st.just("again"), st.sampled_from(["7", "8"])),
)


def live(world: World, script: list[tuple[str, Any]]) -> None:
    world.command("7")
    world.command("8")
    for step, what in script:
        match step:
            case "answer":
                world.answer(what)
            case "wait" | "jump":
                world.pass_time(what)
            case "crash":
                world.crash(what)
            case "abort":
                world.bench.driver.log.fail_next = what
            case "again":
                if not any(outcome["run"] in key for key in world.commands for outcome in world.bench.outcomes()):
                    world.command(what)
    world.bench.driver.log.fail_next = None
    world.come_to_rest()


def outcomes_of(world: World) -> dict[str, str]:
    """Status by effect; fails where there is not exactly one for each."""
    found = world.bench.outcomes()
    keys = [f"{each['run']}/{each['step']}/r{each['revision']}" for each in found]
    assert sorted(keys) == sorted(world.commands), "exactly one outcome for each command"
    failing = {each["run"]: each["at"] for each in world.bench.failings()}
    assert len(failing) == len(world.bench.failings()), "at most once for each command"
    for each in found:
        first = each["first_failure_at"]
        assert failing.get(each["run"], first) == first
        if each["status"] == "verified" or each["attempts"] > 1:
            assert failing.get(each["run"]) == first, "what failed and did not end by it was told of meanwhile"
    return dict(zip((each["run"] for each in found), (each["status"] for each in found), strict=True))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=25))
def test_each_command_has_one_outcome_and_billing_at_most_one_effect(script: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            live(world, script)
            statuses = outcomes_of(world)
        finally:
            world.bench.close()
        for order in ("7", "8"):
            run = BENCH.run_id("order-to-invoice", {"order_id": order, "revision": "1"})
            made = world.billing.books[f"{order}/1"]
            assert made <= 1, "nothing twice"
            if statuses[run] == "verified":
                assert made == 1, "no silent success"
            if statuses[run] == "failed":
                assert made == 0, "failed means that it did not happen"
        assert world.bench.driver.letters() == []


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=15))
def test_a_system_that_can_not_be_asked_gets_one_unattended_attempt(script: list[tuple[str, Any]]) -> None:
    """Unless it said, or the network did, that nothing had been taken."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), verify=False)
        try:
            live(world, script)
            statuses = outcomes_of(world)
        finally:
            world.bench.close()
        assert set(statuses.values()) <= {"accepted", "failed", "unknown"}
        assert max(world.billing.books.values(), default=0) <= 1


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=20))
def test_where_keys_are_honoured_the_same_key_is_sent_again_and_failed_still_means_that_it_did_not_happen(
    script: list[tuple[str, Any]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), verify=False, idempotency="honoured")
        try:
            live(world, script)
            statuses = outcomes_of(world)
        finally:
            world.bench.close()
        for order in ("7", "8"):
            made = world.billing.books[f"{order}/1"]
            assert made <= 1
            if statuses[BENCH.run_id("order-to-invoice", {"order_id": order, "revision": "1"})] == "failed":
                assert made == 0
