"""The model can fail: each of these logs and stages has one fault, and the model must find it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from handrail.contracts import Contracts
from handrail.log import Batch, Record, TopicPartition, Transaction, Written
from handrail.message import Due, Finished, GiveUp, Message, Output
from handrail.pending import View
from handrail.testing.group import UNKNOWN, Membership
from handrail.testing.memory import MemoryLog
from handrail.testing.model import subject
from handrail.testing.model.machine import model
from handrail.testing.model.world import Subject
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

CONTRACTS = Contracts.load(Path(__file__).parents[2] / "contracts")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def noticed(faulty: Subject, examples: int = 1_500) -> str:
    """How the model says that something is wrong; the same seed, so that it is the same every time."""
    with pytest.raises(AssertionError) as raised:
        run_state_machine_as_test(
            seed(1)(model(faulty)),
            settings=settings(
                max_examples=examples,
                stateful_step_count=50,
                deadline=None,
                database=None,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
            ),
        )
    return str(raised.value)


# --- faults of a log


class ReadsToTheStableEnd(MemoryLog):
    """A restore ends at the last stable offset (KAFKA-10167)."""

    def bounds(self, partitions: list[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        return {where: (self._broker.log(where).low, self._broker.log(where).stable()) for where in partitions}


class GivesUpSilently(MemoryLog):
    """A restore that does not reach its end passes for one that has."""

    def read(self, spans: dict[TopicPartition, tuple[int, int]]) -> Iterator[list[Record]]:
        for where, (start, end) in spans.items():
            yield self._broker.log(where).read(start, end)


class CommitsPositionsApart(MemoryLog):
    """Positions are committed before the transaction."""

    def commit(self, transaction: Transaction) -> Written:
        self._broker.offsets.update({(self._stage, p): offset for p, offset in transaction.offsets.items()})
        return super().commit(transaction)


class ForgetsPositions(MemoryLog):
    """Outputs and changelogs without the positions."""

    def commit(self, transaction: Transaction) -> Written:
        return super().commit(replace(transaction, offsets={}))


class KeepsItsProducer(MemoryLog):
    """No new producer after an abort: what was left open goes on."""

    def renew(self) -> None:
        self._broker.meanwhile()


class KeepsItsProducerAfterASlowCommit(MemoryLog):
    """A copy of the commit that is still under way can end the next transaction (librdkafka#5423)."""

    _committing = False

    def commit(self, transaction: Transaction) -> Written:
        self._committing = True
        try:
            return super().commit(transaction)
        finally:
            self._committing = False

    def renew(self) -> None:
        if not self._committing:
            super().renew()


class LooksAtNoGeneration(MemoryLog):
    """Commits as somebody who has not joined, whom Kafka does not fence."""

    def commit(self, transaction: Transaction) -> Written:
        return super().commit(replace(transaction, membership=Membership(UNKNOWN, "")))

    def _check(self, membership: Membership) -> None:
        """Nothing."""


class DoesNotSeek(MemoryLog):
    """After an abort it goes on where the consumer is."""

    def resume(self, positions: dict[int, tuple[int, int]]) -> None:
        before = dict(self._positions)
        super().resume(positions)
        self._positions |= {where: position for where, position in before.items() if where in self._positions}


class ReadsUncommitted(MemoryLog):
    """Delivers what an open transaction has written."""

    def poll(self, limit: int, timeout: float) -> Batch:
        batch = super().poll(limit, timeout)
        for (topic, partition), position in self._positions.items():
            log = self._broker.log((topic, partition))
            some = [entry.record for entry in log.entries if entry.offset >= position and entry.record is not None]
            batch.records += some
            self._positions[topic, partition] = log.end
        return batch


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "log",
    [
        ReadsToTheStableEnd,
        GivesUpSilently,
        CommitsPositionsApart,
        ForgetsPositions,
        KeepsItsProducer,
        KeepsItsProducerAfterASlowCommit,
        LooksAtNoGeneration,
        DoesNotSeek,
        ReadsUncommitted,
    ],
)
def test_the_model_notices_a_log_that(log: type[MemoryLog]) -> None:
    assert noticed(Subject(CONTRACTS, log=log))


# --- faults of a stage


def test_the_model_notices_that_a_key_is_not_held_back_behind_its_failure() -> None:
    text = noticed(Subject(CONTRACTS, spec=lambda handler: subject.spec(handler, ordering="none")))
    assert "not in order" in text


def test_the_model_notices_a_memory_for_duplicates_that_is_too_short() -> None:
    text = noticed(Subject(CONTRACTS, spec=lambda handler: subject.spec(handler, window_ms=1_000)))
    assert "twice" in text or "marks" in text


def wrapped(change: Callable[[Any], Iterable[Any]]) -> Callable[..., Any]:
    """The handler, with its outputs changed."""

    def make(contracts: Contracts, failing: dict[str, str], die: Any) -> Any:
        ours = subject.Counting(contracts, failing, die)

        def handle(given: Message | Due | Finished, view: View) -> Iterable[Output | GiveUp]:
            yield from change(ours(given, view))

        return handle

    return make


def test_the_model_notices_a_handler_that_sends_twice() -> None:
    text = noticed(Subject(CONTRACTS, handler=wrapped(lambda outputs: [each for each in outputs for _ in range(2)])))
    assert "count" in text


def test_the_model_notices_a_handler_that_loses_outputs() -> None:
    assert noticed(Subject(CONTRACTS, handler=wrapped(lambda outputs: list(outputs)[:0])))


def in_memory(contracts: Contracts, failing: dict[str, str], die: Any) -> Any:
    """A handler that counts in its own memory instead of its table: an abort does not take it back."""
    ours, counts = subject.Counting(contracts, failing, die), dict[str, Any]()

    def handle(given: Message | Due | Finished, view: View) -> Iterable[Output | GiveUp]:
        get, put = view.get, view.put

        class Beside:
            def __getattr__(self, name: str) -> Any:
                return getattr(view, name)

            def get(self, table: str, key: str) -> Any:
                return counts.get(key) if table == "counts" else get(table, key)

            def put(self, table: str, key: str, row: Any) -> None:
                counts[key] = row
                put(table, key, row)

        yield from ours(given, Beside())  # type: ignore[arg-type]

    return handle


def test_the_model_notices_a_handler_that_remembers_beside_its_tables() -> None:
    assert "count" in noticed(Subject(CONTRACTS, handler=in_memory))
