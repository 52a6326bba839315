"""The watch as a whole, without Kafka and people: what it hears comes as encoded records, what it tells is looked at."""

from __future__ import annotations

import json
from collections.abc import Collection

import pytest
from handrail.contracts import Contracts
from handrail.process_stats import Process, body
from handrail.recovery.letter import LETTER_BYTES
from handrail.testing.clock import ManualClock
from handrail.vitals import Vitals
from handrail_monitor.alerts import Alert
from handrail_monitor.hearing import Hearing, Raw
from handrail_monitor.limits import Limits
from handrail_monitor.notices import chat, mail
from handrail_monitor.watch import Watch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monitor_world import ACTION, SERVICES, T0, WATCHED, alert

Record = tuple[str, bytes | None, bytes | None]


class Room:
    """A watch, its clock, and what it has told and written."""

    def __init__(self, contracts: Contracts, instance: str = "me") -> None:
        self.contracts, self.clock = contracts, ManualClock(T0)
        self.told: list[Alert] = []
        self.kept: dict[str, Alert] = {}
        self.instance = instance
        self.counters: dict[str, int] = {}
        self.hearing = Hearing(contracts.decode)
        self.watch = self._made()

    def _made(self) -> Watch:
        return Watch(WATCHED, Limits(), self.clock, self.instance, self._keep, self.told.append)

    def _keep(self, one: Alert) -> None:
        self.kept[one.alert] = one

    def second(self, *, sees: bool = True, mute: Collection[str] = (), **counted: int) -> bool:
        """One second passes in which every stage speaks but those in `mute`, and Kafka gives monitor its own words back,
        or nothing at all."""
        self.clock.advance(1_000)
        for name, number in counted.items():
            self.counters[name] = self.counters.get(name, 0) + number
        if sees:
            for stage, service in SERVICES.items():
                if stage in mute:
                    continue
                self.hear(service, Vitals(stage, counters=self.counters if stage == ACTION else {}))
            self.hear("monitor", Vitals("monitor"), self.instance)
        return self.watch.tick()

    def hear(self, service: str, vitals: Vitals, instance: str = "1", ago_ms: int = 0) -> None:
        value = body(Process(service, instance, T0), vitals, self.clock.now() - ago_ms)
        self.say("stats", vitals.stage.encode(), self.contracts.encode("handrail/process-stats.v1", value))

    def say(self, topic: str, key: bytes, value: bytes | None) -> None:
        self.watch.hear(self.hearing(Raw(topic, key, value)))

    def restore(self, *records: Record) -> None:
        understood = (self.hearing(Raw(*record)) for record in records)
        self.watch.restore([one for one in understood if one is not None])

    def begin(self, *records: Record) -> None:
        self.restore(*records)
        for _ in range(5):
            self.second()

    def notices(self) -> list[tuple[str, str, int]]:
        return [(one.alert, one.state, one.sequence) for one in self.told]


CALLS = {"calls.transient": 6}
CALLS_OF_BILLING = "calls-failing/billing"


def test_what_is_wrong_is_told_and_written_and_so_is_its_end(contracts: Contracts) -> None:
    room = Room(contracts)
    room.begin()
    room.second(**CALLS)
    assert room.notices() == [("calls-failing/billing", "FIRING", 1)]
    assert room.kept["calls-failing/billing"].state == "FIRING"
    room.second(**{"calls.good": 100})
    for _ in range(8):
        room.second()
    assert room.notices()[1:] == [("calls-failing/billing", "RESOLVED", 2)]


def test_it_judges_nothing_before_it_sees(contracts: Contracts) -> None:
    room = Room(contracts)
    room.restore(("alerts", b"x", contracts.encode("handrail/alert.v1", alert(told=("log",)).record())))
    for _ in range(19):
        room.second(sees=False)
    assert room.notices() == [("calls-failing/billing", "FIRING", 1)]  # what the last one may not have told
    assert [one.phase for one in room.watch.vitals] == ["restore"]


def test_while_kafka_gives_nothing_that_alone_is_told_and_nothing_ends(contracts: Contracts) -> None:
    room = Room(contracts)
    room.begin()
    room.second(**CALLS)
    anew = [not room.second(sees=False) for _ in range(130)]
    assert room.notices()[1:] == [("kafka-away/kafka", "FIRING", 1)]
    assert sum(anew) == 2  # the feed is begun anew once a minute, not each second
    for _ in range(10):
        room.second(**CALLS)
    assert room.notices()[2:] == [("kafka-away/kafka", "RESOLVED", 2)]


def test_what_failed_in_a_row_is_over_when_it_goes_well_not_when_monitor_starts_again(contracts: Contracts) -> None:
    calls = alert(told=("log",))
    runs = alert(alert="runs-failing/sales", rule="runs-failing", subject="sales", told=("log",))
    room = Room(contracts)
    room.begin(*(("alerts", b"x", contracts.encode("handrail/alert.v1", one.record())) for one in (calls, runs)))
    for _ in range(20):
        room.second()
    room.second(**{"calls.transient": 1})
    for _ in range(20):
        room.second()
    assert room.told == [calls, runs]  # as they were found
    room.second(**{"calls.good": 1})
    for _ in range(8):
        room.second()
    assert room.notices()[2:] == [(CALLS_OF_BILLING, "RESOLVED", 2)]


def test_what_failed_in_a_row_is_not_over_because_its_stage_says_nothing_at_all(contracts: Contracts) -> None:
    room = Room(contracts)
    room.restore(("alerts", b"x", contracts.encode("handrail/alert.v1", alert().record())))
    for _ in range(30):
        room.second(mute={ACTION})
    assert (CALLS_OF_BILLING, "RESOLVED", 2) not in room.notices()


def test_a_feed_that_is_busy_is_not_called_silence_of_kafka_and_judges_nothing(contracts: Contracts) -> None:
    """It reads many dead letters, or stands back behind another monitor."""
    room = Room(contracts)
    for _ in range(90):
        room.clock.advance(1_000)
        room.watch.busy()
        assert room.watch.tick()
    assert room.told == []
    assert [one.phase for one in room.watch.vitals] == ["restore"]
    for _ in range(25):
        room.clock.advance(1_000)
        room.watch.tick()
    assert [one.rule for one in room.told] == ["kafka-away"]


def test_reading_for_minutes_what_was_said_before_is_not_called_silence_of_kafka(contracts: Contracts) -> None:
    room = Room(contracts)
    room.restore()
    for _ in range(90):
        room.clock.advance(1_000)
        room.hear("action", Vitals(ACTION), ago_ms=3_600_000)
        assert room.watch.tick()  # nor is the feed made anew
    assert [one.phase for one in room.watch.vitals] == ["restore"]
    for _ in range(25):
        room.clock.advance(1_000)
        room.hear("action", Vitals(ACTION))
        room.watch.tick()
    assert [one.what for one in room.told] == ["Monitor hears others, but its own words have not come back for 21 s."]


@pytest.mark.parametrize("gap_ms", [60_000, 3_600_000, -60_000, -3_600_000])
def test_a_pause_of_its_own_and_a_clock_that_is_set_are_nobody_elses_silence(contracts: Contracts, gap_ms: int) -> None:
    room = Room(contracts)
    room.begin()
    room.second(**CALLS)
    room.clock.advance(gap_ms)
    assert room.second(sees=False)
    for _ in range(15):
        room.second()
    assert room.notices() == [(CALLS_OF_BILLING, "FIRING", 1)]
    for _ in range(18):
        room.second(mute={ACTION})
    assert (SILENT, "FIRING", 1) in room.notices()


SILENT = "process-silent/action"


@pytest.mark.parametrize("away_s", [6, 12, 17, 25, 70])
def test_after_kafka_was_away_nobody_is_called_silent_who_only_speaks_a_little_later(
    contracts: Contracts, away_s: int
) -> None:
    room = Room(contracts)
    room.begin()
    for _ in range(away_s):
        room.second(sees=False)
    for _ in range(10):
        room.second(mute=SERVICES)  # monitor hears itself first
    for _ in range(20):
        room.second()
    assert {one.rule for one in room.told} <= {"kafka-away"}


def test_who_says_nothing_after_kafka_is_back_is_silent_for_as_long_as_monitor_listens(contracts: Contracts) -> None:
    room = Room(contracts)
    room.begin()
    for _ in range(25):
        room.second(sees=False)
    for _ in range(15):
        room.second(mute={ACTION})
    assert SILENT not in [one.alert for one in room.told]
    for _ in range(3):
        room.second(mute={ACTION})
    assert (SILENT, "FIRING", 1) in room.notices()


def test_a_silent_process_is_not_over_because_monitor_was_started_again_or_was_blind(contracts: Contracts) -> None:
    room = Room(contracts)
    fired = alert(alert=SILENT, rule="process-silent", subject="action", told=("log",))
    room.restore(("alerts", b"x", contracts.encode("handrail/alert.v1", fired.record())))
    for _ in range(40):
        room.second(mute={ACTION})
    for _ in range(12):
        room.second(sees=False, mute={ACTION})
    for _ in range(40):
        room.second(mute={ACTION})
    assert room.notices() == [(SILENT, "FIRING", 1)]  # as it was found
    for _ in range(10):
        room.second()
    assert room.notices()[1:] == [(SILENT, "RESOLVED", 2)]


def test_kafka_that_was_never_there_is_told_too_and_later_known_from_before(contracts: Contracts) -> None:
    room = Room(contracts)
    for _ in range(25):
        room.second(sees=False)
    assert room.notices() == [("kafka-away/kafka", "FIRING", 1)]
    over = alert(
        alert="kafka-away/kafka", rule="kafka-away", subject="kafka", state="RESOLVED", since=T0 - 9, told=("log",)
    )
    room.begin(("alerts", b"x", contracts.encode("handrail/alert.v1", over.record())))
    for _ in range(6):
        room.second()
    assert room.notices()[1:] == [("kafka-away/kafka", "RESOLVED", 2)]


def test_another_monitors_words_are_not_its_own(contracts: Contracts) -> None:
    room = Room(contracts, instance="old")
    room.instance = "me"
    room.watch = room._made()
    for _ in range(25):
        room.clock.advance(1_000)
        room.hear("monitor", Vitals("monitor"), "old")
        room.watch.tick()
    assert room.notices() == [("kafka-away/kafka", "FIRING", 1)]


def test_after_a_restart_only_those_are_told_who_were_not(contracts: Contracts) -> None:
    first = Room(contracts)
    first.begin()
    first.second(**CALLS)
    first.watch.told(first.told[0], "log")
    first.watch.told(first.told[0], "log")
    kept = first.kept[CALLS_OF_BILLING]
    assert kept.told == ("log",)
    again = Room(contracts)
    again.begin(("alerts", b"x", contracts.encode("handrail/alert.v1", kept.record())))
    assert again.told == [kept]  # told on to the others


def test_a_late_word_of_a_notifier_does_not_bring_back_an_older_notice(contracts: Contracts) -> None:
    room = Room(contracts)
    room.begin()
    room.second(**CALLS)
    room.second(**{"calls.good": 100})
    for _ in range(8):
        room.second()
    room.watch.told(room.told[0], "webhook")
    assert room.kept["calls-failing/billing"].state == "RESOLVED"


def test_what_nobody_can_read_is_passed_over(contracts: Contracts) -> None:
    room = Room(contracts)
    room.begin(("systems", b"x", b"\x00rubbish"), ("systems", b"x", None), ("dead-letters", None, None))
    room.say("stats", None, b"")
    assert room.notices() == []


def test_it_says_nothing_of_itself_when_it_has_not_looked_for_a_while(contracts: Contracts) -> None:
    room = Room(contracts)
    room.begin()
    assert [one.phase for one in room.watch.vitals] == ["idle"]
    room.clock.advance(30_000)
    assert room.watch.vitals == []


SECRET = "Ada Lovelace ada@example.org +44 20 7946"


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(["config", "contract", "bug"]), st.booleans())
def test_nothing_of_a_message_gets_into_an_alert(contracts: Contracts, failure_class: str, keyed: bool) -> None:
    room = Room(contracts)
    letter = {
        "letter": "l1",
        "generation": 1,
        "stage": ACTION,
        "flow": "sales",
        "version": 1,
        "run": "r",
        "route": SECRET,
        "step": "invoice",
        "topic": "t",
        "partition": 0,
        "offset": 1,
        "timestamp": T0,
        "key": SECRET.encode() if keyed else None,
        "value": SECRET.encode(),
        "headers": [{"name": "x", "value": SECRET.encode()}],
        "event_id": SECRET,
        "contract": None,
        "failure_class": failure_class,
        "field": None,
        "exception": "ValueError",
        "message": SECRET,
        "stack": SECRET,
        "fingerprint": "f",
        "attempts": 1,
        "trace": None,
        "payload_hash": "00",
        "failed_at": T0 - 9_000_000,
        "first_failed_at": T0 - 9_000_000,
    }
    raw = contracts.encode("handrail/dead-letter.v1", letter)
    assert SECRET.encode() in raw
    assert len(raw) < LETTER_BYTES
    state = {
        "letter": "l2",
        "generation": 1,
        "state": "OPEN",
        "stage": ACTION,
        "flow": "sales",
        "failure_class": "config",
    }
    state |= {"replays": 0, "by": SECRET, "reason": SECRET, "at": T0 - 9_000_000}
    system = {"system": "billing", "breaker": "OPEN", "reason": SECRET, "since": T0, "at": T0}
    room.begin(
        ("dead-letters", SECRET.encode(), raw),
        ("recovery.states", b"l2", contracts.encode("handrail/letter-state.v1", state)),
        ("systems", b"billing", contracts.encode("handrail/system-state.v1", system)),
    )
    assert {one.rule for one in room.told} >= {"oldest-dead-letter", "misconfigured", "breaker-open"}
    for one in room.told:
        whole = json.dumps([one.record(), chat(one)]) + mail(one, "a@b", ("c@d",)).as_string()
        for part in ("Ada", "Lovelace", "ada@", "7946"):
            assert part not in whole
