"""What monitor keeps of a record, and that what is left of Faust is noticed."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail_monitor.facts import Gone, Letter
from handrail_monitor.feed import FaustStays, none_stays
from handrail_monitor.hearing import Hearing, Raw
from mode.threads import WorkerThread
from monitor_world import T0, alert


@pytest.fixture
def hearing(contracts: Contracts) -> Hearing:
    return Hearing(contracts.decode)


def test_of_a_large_dead_letter_only_what_the_rules_need_is_kept(hearing: Hearing, contracts: Contracts) -> None:
    body = {
        "letter": "l1", "generation": 2, "stage": "sales.decision", "flow": "sales", "version": 1, "run": None, "route": None,
        "step": None, "topic": "t", "partition": 0, "offset": 1, "timestamp": T0, "key": None, "value": b"x" * 900_000,
        "headers": [], "event_id": None, "contract": None, "failure_class": "bug", "field": None, "exception": None,
        "message": "", "stack": None, "fingerprint": "f", "attempts": 1, "trace": None, "payload_hash": "0",
        "failed_at": T0, "first_failed_at": T0,
    }  # fmt: skip
    heard = hearing(Raw("dead-letters", b"l1", contracts.encode("handrail/dead-letter.v1", body)))
    assert heard == Letter("l1", 2, "sales.decision", "sales", "bug", open=True, at=T0)


def test_an_alert_a_tombstone_and_what_no_rule_needs(hearing: Hearing, contracts: Contracts) -> None:
    assert hearing(Raw("alerts", b"x", contracts.encode("handrail/alert.v1", alert().record()))) == alert()
    assert hearing(Raw("dead-letters", b"l1", None)) == Gone("l1")
    assert hearing(Raw("systems", b"billing", None)) is None
    assert hearing(Raw("stats", b"x", b"no record of ours")) is None


@pytest.fixture
def hung() -> Any:
    """A thread as Faust has them, which does not end before the test does."""
    end = threading.Event()
    thread = WorkerThread(SimpleNamespace(_start_thread=end.wait))
    before = set(threading.enumerate())
    thread.start()
    yield before, end
    end.set()
    thread.join()


def test_a_thread_of_faust_that_stays_is_an_end_for_good(hung: Any) -> None:
    before, _ = hung
    with pytest.raises(FaustStays, match="only a new process"):
        none_stays(before, within_s=0.05)


def test_a_thread_of_faust_that_ends_and_one_that_was_there_before_are_no_matter(hung: Any) -> None:
    before, end = hung
    none_stays(set(threading.enumerate()), within_s=0.0)
    end.set()
    none_stays(before, within_s=30.0)
