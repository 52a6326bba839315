"""What a stage tells of each message: its place in the trace, what is kept of an unsampled run, and what the logs say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from handrail.contracts import Contracts
from handrail.errors import Failure
from handrail.message import Due, Finished, GiveUp, Message, Output, Run
from handrail.pending import View
from handrail.spec import Spec
from handrail.testing.driver import StageDriver
from handrail.testing.memory import MemoryBroker
from handrail.traceparent import trace_id
from handrail.tracing import Tracing
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from handrail import envelope, logs

CONTRACTS = Contracts.load(Path(__file__).parents[2] / "contracts")
TYPE = "orders/order-accepted.v1"
RUN = Run("01234567-89ab-8def-8123-456789abcdef", "order-to-invoice", 1)
SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = SAMPLED[:-2] + "00"
ORDERS_OWN = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
ORDER = {
    "order_id": "7",
    "revision": 1,
    "customer_id": "c1",
    "customer_name": "Ada",
    "segment": "unknown",
    "account_balance_minor": 0,
    "total_minor": 500,
    "currency": "EUR",
    "ordered_on": "2026-11-21",
}
VALUE = CONTRACTS.encode(TYPE, ORDER)


class World:
    """One stage whose handler does what the test says, on a broker in memory, with its spans."""

    def __init__(self, home: Path) -> None:
        self.broker = MemoryBroker()
        self._exporter = InMemorySpanExporter()
        self._home = home
        self._drivers: list[StageDriver] = []

    def stage(self, handler: Callable[..., Iterable[Any]], **given: Any) -> StageDriver:
        spec = Spec(
            name="flow.transform",
            inbox="flow.transform",
            accepts=frozenset({TYPE}),
            handler=handler,
            partitions=lambda _topic: 1,
            knows=lambda _flow, _version: True,
            **given,
        )
        telemetry = Tracing("transform", SimpleSpanProcessor(self._exporter))
        self._drivers.append(StageDriver(self.broker, spec, CONTRACTS, self._home, telemetry=telemetry))
        return self._drivers[-1]

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def contexts(self, topic: str) -> list[str]:
        """The context of each record of a topic."""
        return [envelope.read_internal(record.headers).traceparent or "" for record in self.broker.records(topic)]

    def close(self) -> None:
        for driver in self._drivers:
            driver.crash()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path)
    yield one
    one.close()


def copy(message: Message, _view: Any) -> Iterable[Output]:
    yield Output("out", TYPE, message.key, value=message.value, run=RUN)


class Fails:
    """A handler that fails so many times, then copies."""

    def __init__(self, times: int, error_class: str = "transient") -> None:
        self._left, self._class = times, error_class

    def __call__(self, message: Message, view: Any) -> Iterable[Output]:
        if self._left:
            self._left -= 1
            raise Failure(self._class, "no such customer: Ada")
        return list(copy(message, view))


def own(span: ReadableSpan) -> str:
    return f"{span.context.span_id:016x}"


def above(span: ReadableSpan) -> str | None:
    return f"{span.parent.span_id:016x}" if span.parent else None


def linked(span: ReadableSpan) -> list[str]:
    return [f"{link.context.trace_id:032x}" for link in span.links]


def let_retry(stage: StageDriver) -> None:
    stage.clock.advance(3_600_000)
    stage.drain()


def test_what_is_sent_hangs_below_the_span_in_which_it_was_made(world: World) -> None:
    stage = world.stage(copy)
    stage.send(TYPE, "7", VALUE, id="a", run=RUN, traceparent=SAMPLED)
    stage.drain()
    (span,) = world.spans
    assert (above(span), world.contexts("out")[0][36:52]) == (SAMPLED[36:52], own(span))
    assert (span.attributes or {})["handrail.run"] == RUN.id


def test_a_span_tells_its_message_by_the_messaging_conventions_also_of_a_retry(world: World) -> None:
    stage = world.stage(Fails(1))
    stage.send(TYPE, "6", VALUE, id="before", run=RUN, traceparent=UNSAMPLED)
    stage.send(TYPE, "7", VALUE, id="a", run=RUN, traceparent=SAMPLED)
    stage.drain()
    let_retry(stage)
    told = [dict(span.attributes or {}) for span in world.spans]
    wanted = {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "flow.transform",
        "messaging.destination.partition.id": "0",
        "messaging.consumer.group.name": "flow.transform",
    }
    assert all(one.items() >= wanted.items() for one in told)
    assert [(one["messaging.message.id"], one["messaging.kafka.offset"]) for one in told] == [
        ("before", 0),  # it failed, so its trace is kept
        ("a", 1),
        ("before", 0),
    ]


def test_of_an_unsampled_run_nothing_is_recorded_while_all_is_well(world: World) -> None:
    stage = world.stage(copy)
    stage.send(TYPE, "7", VALUE, id="a", run=RUN, traceparent=UNSAMPLED)
    stage.drain()
    assert world.spans == ()
    assert world.contexts("out")[0].endswith("-00")


def test_the_failure_of_an_unsampled_run_is_recorded_and_so_is_all_that_follows(world: World) -> None:
    stage = world.stage(Fails(1))
    stage.send(TYPE, "7", VALUE, id="a", run=RUN, traceparent=UNSAMPLED)
    stage.drain()
    let_retry(stage)
    failed, retried = world.spans
    assert ((failed.attributes or {})["error.type"], failed.status.is_ok) == ("transient", False)
    assert ((retried.attributes or {})["handrail.attempt"], retried.status.is_unset) == (2, True)
    assert above(failed) == above(retried) == UNSAMPLED[36:52]
    assert world.contexts("out")[0].endswith("-01")


def test_a_dead_letter_of_an_unsampled_run_is_recorded_and_hangs_below_its_failure(world: World) -> None:
    stage = world.stage(Fails(1, "business"))
    stage.send(TYPE, "7", VALUE, id="a", run=RUN, traceparent=UNSAMPLED)
    stage.drain()
    (failed,) = world.spans
    (context,) = world.contexts("dead-letters")
    assert (context[36:52], context[-3:]) == (own(failed), "-01")
    (letter,) = stage.letters()
    assert letter["trace"] == trace_id(UNSAMPLED)


def test_what_a_handler_gives_up_counts_as_a_failure(world: World) -> None:
    stage = world.stage(lambda _message, _view: [GiveUp("outage", "billing is down")])
    stage.send(TYPE, "7", VALUE, id="a", run=RUN, traceparent=UNSAMPLED)
    stage.drain()
    assert [(span.attributes or {})["error.type"] for span in world.spans] == ["outage"]
    assert world.contexts("dead-letters")[0].endswith("-01")


def test_bytes_that_do_not_decode_have_a_span_that_says_so(world: World) -> None:
    stage = world.stage(copy)
    stage.send(TYPE, "7", b"\1garbage", id="a", run=RUN, traceparent=SAMPLED)
    stage.drain()
    (failed,) = world.spans
    assert (failed.attributes or {})["error.type"] == "poison"
    assert world.contexts("dead-letters")[0][36:52] == own(failed)


def test_a_replay_goes_on_in_its_own_trace_linked_to_the_order_that_asked_for_it(world: World) -> None:
    stage = world.stage(Fails(1, "business"))
    stage.send(TYPE, "7", VALUE, id="a", run=RUN, traceparent=UNSAMPLED)
    stage.drain()
    stage.replay(stage.letters()[0], order=ORDERS_OWN)
    stage.drain()
    failed, replayed = world.spans
    assert (linked(failed), linked(replayed)) == ([], [trace_id(ORDERS_OWN)])
    assert f"{replayed.context.trace_id:032x}" == trace_id(UNSAMPLED)
    assert (replayed.attributes or {})["handrail.replay"] == 1
    (resolved,) = world.contexts("recovery.letters.replay")
    assert resolved[36:52] == own(replayed), "that it went through is told in the same trace"


def test_a_replay_that_has_to_wait_keeps_its_link(world: World) -> None:
    fails = Fails(1, "business")
    stage = world.stage(fails)
    stage.send(TYPE, "7", VALUE, id="a", run=RUN, traceparent=SAMPLED)
    stage.drain()
    fails.__init__(1)  # type: ignore[misc]
    stage.replay(stage.letters()[0], order=ORDERS_OWN)
    stage.drain()
    let_retry(stage)
    assert [linked(span) for span in world.spans] == [[], [trace_id(ORDERS_OWN)], [trace_id(ORDERS_OWN)]]


@pytest.mark.parametrize("known", [True, False])
def test_a_message_with_another_trace_goes_on_in_the_run_s_own_where_that_is_known(world: World, known: bool) -> None:
    stage = world.stage(copy, continues=lambda _message, _view: SAMPLED if known else None)
    stage.send(TYPE, "7", VALUE, id="a", run=RUN, traceparent=ORDERS_OWN)
    stage.drain()
    (span,) = world.spans
    expected = SAMPLED if known else ORDERS_OWN
    assert (f"{span.context.trace_id:032x}", above(span)) == (trace_id(expected), expected[36:52])
    assert linked(span) == ([trace_id(ORDERS_OWN)] if known else [])
    assert trace_id(world.contexts("out")[0]) == trace_id(expected)


def test_a_message_that_has_the_run_s_trace_hangs_below_its_own_context(world: World) -> None:
    earlier = SAMPLED[:36] + "1" * 16 + "-01"
    stage = world.stage(copy, continues=lambda _message, _view: earlier)
    stage.send(TYPE, "7", VALUE, id="a", run=RUN, traceparent=SAMPLED)
    stage.drain()
    (span,) = world.spans
    assert (above(span), linked(span)) == (SAMPLED[36:52], [])


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """What is logged, line by line, with all that is added to each."""
    before = structlog.get_config()
    capture = structlog.testing.LogCapture()
    structlog.configure(processors=[*logs.said(), capture], cache_logger_on_first_use=False)
    yield capture.entries
    structlog.configure(**before)


def test_a_line_about_a_message_says_its_run_and_trace_and_nothing_of_its_contents(
    world: World, logged: list[Any]
) -> None:
    stage = world.stage(Fails(1, "business"))
    stage.send(TYPE, "7", VALUE, id="a", run=RUN, traceparent=SAMPLED)
    stage.drain()
    lines = logged
    (told,) = [line for line in lines if line["event"] == "dead letter"]
    assert (told["run"], told["trace"], told["event_id"]) == (RUN.id, trace_id(SAMPLED), "a")
    assert (told["failure_class"], told["stage"]) == ("business", "flow.transform")
    assert not any("Ada" in str(line) for line in lines)


def test_what_a_handler_logs_says_which_message_it_is_about(world: World, logged: list[Any]) -> None:
    def handler(_message: Message, _view: Any) -> Iterable[Output]:
        structlog.get_logger().warning("odd", run="its own word")
        return []

    stage = world.stage(handler)
    stage.send(TYPE, "7", VALUE, id="a", run=RUN, traceparent=SAMPLED)
    stage.drain()
    structlog.get_logger().info("nothing in hand")
    told = {line["event"]: line for line in logged}
    assert (told["odd"]["trace"], told["odd"]["run"]) == (trace_id(SAMPLED), "its own word")
    assert "trace" not in told["nothing in hand"]
    assert "run" not in told["nothing in hand"]


def test_a_timer_whose_handler_fails_is_logged_with_where_and_not_with_what_was_said(
    world: World, logged: list[Any]
) -> None:
    said = "no such customer: Ada"

    def handler(given: Message | Due | Finished, view: View) -> Iterable[Output]:
        if isinstance(given, Message):
            view.set_timer("remind", given.key, 1)
            return []
        raise Failure("business", said) from ValueError(said)

    stage = world.stage(handler)
    stage.send(TYPE, "7", VALUE, id="a", run=RUN, traceparent=SAMPLED)
    stage.drain()
    (line,) = [line for line in logged if line["event"] == "handler failed"]
    assert (line["failure_class"], line["error"]) == ("business", "handrail.errors.Failure")
    assert "in handler" in line["frames"]
    assert "ValueError" in line["frames"]
    assert "Ada" not in str(line)


@pytest.mark.parametrize("headers", [(), (("traceparent", b"nonsense"),)])
def test_a_line_about_an_event_without_a_context_says_the_trace_of_its_letter(
    world: World, logged: list[Any], headers: tuple[tuple[str, bytes], ...]
) -> None:
    stage = world.stage(copy, public=True)
    world.broker.publish("flow.transform", "7", b"\1garbage", headers)
    stage.drain()
    (line,) = [line for line in logged if line["event"] == "dead letter"]
    assert line["trace"] == trace_id(world.contexts("dead-letters")[0])


def test_a_line_about_a_verdict_says_the_run_s_trace_and_not_that_of_the_person_s_order(
    world: World, logged: list[Any]
) -> None:
    stage = world.stage(Fails(1, "business"), continues=lambda _message, _view: SAMPLED)
    stage.send(TYPE, "7", VALUE, id="a", run=RUN, traceparent=ORDERS_OWN)
    stage.drain()
    (line,) = [line for line in logged if line["event"] == "dead letter"]
    assert line["trace"] == trace_id(SAMPLED)
