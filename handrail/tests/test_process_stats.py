"""What a process says of its stages on `stats`: by contract, and never at the cost of the stage."""

from __future__ import annotations

from pathlib import Path

from handrail.contracts import Contracts
from handrail.kafka.reporting import Reporter, producer, this_process
from handrail.process_stats import CONTRACT, Process, body
from handrail.testing.clock import ManualClock
from handrail.vitals import Vitals
from handrail.waiting import Waiting

CONTRACTS = Contracts.load(Path(__file__).parents[2] / "contracts")
VITALS = Vitals(
    "action.billing",
    "idle",
    (0, 1),
    held={1: "sales v2"},
    lag={0: 3, 1: 4},
    waiting=5,
    blocked=2,
    oldest=900,
    open=7,
    open_oldest=80,
    counters={"calls.good": 6, "calls.transient": 0},
)


def test_vitals_become_a_record_of_the_contract() -> None:
    told = body(Process("action", "host-1-2", 2), VITALS, 10)
    contract, decoded = CONTRACTS.decode(CONTRACTS.encode(CONTRACT, told))
    assert contract.name == CONTRACT
    assert decoded == told
    assert decoded["reasons"] == ["partition 1 is paused: flow sales v2 is not here"]
    assert decoded["counters"] == {"calls.good": 6}
    gauges = {"partitions": 2, "held": 1, "lag": 7, "waiting": 5, "blocked": 2, "oldest_ms": 900, "open": 7}
    assert decoded["gauges"].items() >= {**gauges, "open_oldest_ms": 80, "full": 0}.items()


def test_each_start_is_another_instance() -> None:
    clock = ManualClock()
    first = this_process("action", clock)
    clock.advance(1)
    assert this_process("action", clock).instance != first.instance


def test_without_kafka_it_forgets_and_nobody_waits() -> None:
    settings = producer("127.0.0.1:1", "action")
    assert settings["queue.buffering.max.messages"] == 1_000
    clock = ManualClock()
    me = this_process("action", clock)
    reporter = Reporter("127.0.0.1:1", CONTRACTS, me, lambda: [VITALS] * 600, clock, every_s=0.01)
    for _ in range(3):
        reporter.report()  # 1,800 records into room for a thousand: the rest is dropped, nothing is raised
    reporter.start()
    reporter.close()
    assert not reporter.is_alive()


def test_what_is_under_way_is_as_old_as_its_first_timer_until_it_is_cancelled() -> None:
    waiting = Waiting()
    waiting.set_timer(b"a", 50, since=10)
    waiting.set_timer(b"b", 40, since=20)
    waiting.set_timer(b"a", 90, since=30)
    assert (waiting.timers(), waiting.oldest_timer()) == (2, 10)
    list(waiting.due_timers(100, 10))
    waiting.set_timer(b"a", 200, since=100)  # it was due, and waits on
    assert waiting.oldest_timer() == 10
    assert waiting.timer_since(7, b"a") == 10
    assert waiting.timer_since(7, b"c") == 7
    waiting.set_timer(b"a", None)
    waiting.set_timer(b"b", None)
    assert (waiting.timers(), waiting.oldest_timer()) == (0, None)
