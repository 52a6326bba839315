from __future__ import annotations

import subprocess
import sys
import time

import pytest
from handrail.errors import ConfigError
from handrail.identity import run_id
from handrail.telemetry import Telemetry
from handrail.testing.otlp import Collector, edges
from handrail.traceparent import derived_traceparent, kept, trace_id, trace_of, valid_traceparent
from handrail.tracing import Tracing
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from handrail import telemetry as names

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-2] + "00"
RUN = "0190aaaa-bbbb-8ccc-8ddd-eeeeffff0001"
MALFORMED = [
    "",
    "nonsense",
    PARENT.upper(),
    PARENT + "-extra",
    PARENT + "\n",
    "ff" + PARENT[2:],
    "00-" + "0" * 32 + "-b7ad6b7169203331-01",
    "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
]


class Recorder:
    """Telemetry switched on, into memory."""

    def __init__(self, service: str = "decision", *, unsampled: bool = False) -> None:
        self._exporter = InMemorySpanExporter()
        processor = SimpleSpanProcessor(self._exporter)
        self.telemetry = Tracing(service, processor, processor if unsampled else None)

    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def note(telemetry: Telemetry, **more: object) -> None:
    given = {"stage": "order-to-invoice.decision", "operation": "process", "parent": PARENT} | more
    telemetry.record(start_ns=1_000, end_ns=2_000, **given)  # type: ignore[arg-type]


def test_without_an_endpoint_a_context_is_passed_on_and_nothing_is_recorded() -> None:
    telemetry = Telemetry.from_env("ingest", {})
    note(telemetry)
    telemetry.shutdown()
    assert (telemetry.on, telemetry.provider, telemetry.child(PARENT, RUN)) == (False, None, PARENT)


def test_a_disabled_sdk_records_nothing() -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "True"}
    assert not Telemetry.from_env("ingest", env).on


def test_switched_off_no_sdk_is_loaded() -> None:
    code = "import sys; from handrail.telemetry import Telemetry; Telemetry.from_env('x', {}).child(None)"
    code += "; print('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("malformed", [None, *MALFORMED])
def test_a_malformed_context_is_replaced_by_one_derived_from_the_run(malformed: str | None) -> None:
    context = Telemetry().child(malformed, RUN)
    assert trace_id(context) == f"{trace_of(RUN):032x}"
    assert context == derived_traceparent(RUN)


@pytest.mark.parametrize("malformed", [None, *MALFORMED])
def test_switched_on_a_malformed_context_begins_the_trace_of_the_run(recorder: Recorder, malformed: str | None) -> None:
    context = recorder.telemetry.child(malformed, RUN)
    note(recorder.telemetry, parent=malformed, context=context)
    assert trace_id(context) == f"{trace_of(RUN):032x}"
    assert recorder.spans()[0].parent is None


@given(st.text(max_size=60))
def test_whatever_the_run_is_called_its_derived_context_is_valid(run: str) -> None:
    assert valid_traceparent(derived_traceparent(run))


def test_without_a_run_a_new_trace_begins(recorder: Recorder) -> None:
    for telemetry in (Telemetry(), recorder.telemetry):
        one, two = telemetry.child(None), telemetry.child(None)
        assert valid_traceparent(one)
        assert trace_id(one) != trace_id(two)


def test_the_span_recorded_is_the_one_that_the_outputs_carry(recorder: Recorder) -> None:
    context = recorder.telemetry.child(PARENT, RUN)
    note(recorder.telemetry, context=context)
    (span,) = recorder.spans()
    assert context == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert (span.name, span.start_time, span.end_time) == ("process order-to-invoice.decision", 1_000, 2_000)
    assert span.resource.attributes["service.name"] == "handrail-decision"


def test_without_a_context_the_span_gets_an_id_of_its_own_in_the_same_trace(recorder: Recorder) -> None:
    note(recorder.telemetry)
    (span,) = recorder.spans()
    assert f"{span.context.trace_id:032x}" == trace_id(PARENT)
    assert f"{span.context.span_id:016x}" not in PARENT


def test_what_the_parent_does_not_sample_is_not_recorded_but_passed_on(recorder: Recorder) -> None:
    context = recorder.telemetry.child(UNSAMPLED, RUN)
    note(recorder.telemetry, parent=UNSAMPLED, context=context)
    assert recorder.spans() == ()
    assert context.endswith("-00")
    assert trace_id(context) == trace_id(UNSAMPLED)


def sampled(context: str) -> bool:
    return context.endswith("-01")


@pytest.mark.parametrize(
    ("sampler", "of_a_root", "of_a_sampled_parent", "of_an_unsampled_parent"),
    [
        ("always_on", True, True, True),
        ("always_off", False, False, False),
        ("parentbased_always_on", True, True, False),
        ("parentbased_always_off", False, True, False),
    ],
)
def test_where_a_run_comes_in_the_sampler_of_the_environment_decides(
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    of_a_root: bool,
    of_a_sampled_parent: bool,
    of_an_unsampled_parent: bool,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    telemetry = Recorder().telemetry
    decided = [sampled(telemetry.child(parent, RUN, entry=True)) for parent in (None, PARENT, UNSAMPLED)]
    assert decided == [of_a_root, of_a_sampled_parent, of_an_unsampled_parent]


@pytest.mark.parametrize("sampler", ["always_on", "always_off", "traceidratio", "parentbased_traceidratio"])
def test_inside_the_decision_stays_as_it_was_made(monkeypatch: pytest.MonkeyPatch, sampler: str) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    telemetry = Recorder().telemetry
    assert sampled(telemetry.child(PARENT, RUN))
    assert not sampled(telemetry.child(UNSAMPLED, RUN))


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_a_ratio_keeps_so_many_runs_and_every_process_the_same_ones(
    monkeypatch: pytest.MonkeyPatch, ratio: float
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", str(ratio))
    one, other = Recorder().telemetry, Recorder().telemetry
    runs = [run_id("order-to-invoice", {"order_id": str(number)}) for number in range(1_000)]
    kept_runs = [run for run in runs if sampled(one.child(None, run, entry=True))]
    assert kept_runs == [run for run in runs if sampled(other.child(None, run, entry=True))]
    assert abs(len(kept_runs) / len(runs) - ratio) < 0.06  # four times the deviation that chance has


def test_a_failed_span_is_recorded_also_in_a_trace_that_is_not(recorder: Recorder) -> None:
    context = recorder.telemetry.child(UNSAMPLED, RUN)
    note(recorder.telemetry, parent=UNSAMPLED, context=context, error="transient")
    (span,) = recorder.spans()
    assert (f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}") == (trace_id(context), context[36:52])
    assert span.context.trace_flags.sampled


def test_what_is_not_sampled_is_sent_where_a_collector_keeps_it_and_marked_alone_so() -> None:
    recorder = Recorder(unsampled=True)
    telemetry = recorder.telemetry
    context = telemetry.child(UNSAMPLED, RUN)
    note(telemetry, parent=UNSAMPLED, context=context)
    note(telemetry, parent=UNSAMPLED, context=telemetry.child(UNSAMPLED, RUN), error="transient")
    note(telemetry, parent=PARENT)
    assert not sampled(context), "what follows in other processes stays as it was decided"
    left_out, failed, chosen = recorder.spans()
    assert left_out.context.trace_flags.sampled, "or the exporter would drop it"
    assert f"{left_out.context.span_id:016x}" == context[36:52]
    marks = [(span.attributes or {}).get(names.SAMPLED) for span in (left_out, failed, chosen)]
    assert marks == [False, None, None]


def test_what_was_not_sampled_takes_no_room_from_what_is_to_be_kept() -> None:
    kept_ones, left_out = InMemorySpanExporter(), InMemorySpanExporter()
    telemetry = Tracing("decision", SimpleSpanProcessor(kept_ones), SimpleSpanProcessor(left_out))
    for error in (None, "transient", None):
        note(telemetry, parent=UNSAMPLED, context=telemetry.child(UNSAMPLED, RUN), error=error)
    note(telemetry, parent=PARENT)
    assert [len(one.get_finished_spans()) for one in (kept_ones, left_out)] == [2, 2]


@pytest.mark.parametrize("word", ["", "yes", "SEND"])
def test_what_becomes_of_spans_that_are_not_sampled_is_said_by_one_of_two_words(word: str) -> None:
    with pytest.raises(ConfigError, match=r"HANDRAIL_TRACES_UNSAMPLED=.*write send or drop"):
        Telemetry.from_env("ingest", {"HANDRAIL_TRACES_UNSAMPLED": word})


@pytest.mark.parametrize("switched_on", [True, False])
def test_what_follows_a_failure_is_recorded_from_there_on(switched_on: bool) -> None:
    telemetry = Recorder().telemetry if switched_on else Telemetry()
    after = telemetry.child(UNSAMPLED, RUN, keep=True)
    assert sampled(after)
    assert sampled(telemetry.child(after, RUN))
    assert trace_id(after) == trace_id(UNSAMPLED)


def test_keeping_a_context_changes_its_flag_alone() -> None:
    assert kept(UNSAMPLED) == PARENT == kept(PARENT)
    assert kept(PARENT[:-2] + "02") == PARENT[:-2] + "03"
    assert [kept(malformed) for malformed in (None, *MALFORMED)] == [None] * (len(MALFORMED) + 1)


def test_what_another_trace_has_caused_is_linked_to_it(recorder: Recorder) -> None:
    order = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    note(recorder.telemetry, link=order)
    (span,) = recorder.spans()
    (link,) = span.links
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == ("ab" * 16, "cd" * 8)
    assert f"{span.context.trace_id:032x}" == trace_id(PARENT)
    note(recorder.telemetry, link=None)
    assert recorder.spans()[1].links == ()


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("process", SpanKind.CONSUMER),
        ("publish", SpanKind.PRODUCER),
        ("call", SpanKind.CLIENT),
        ("verify", SpanKind.CLIENT),
        ("restore", SpanKind.INTERNAL),
    ],
)
def test_each_operation_has_its_kind(recorder: Recorder, operation: str, kind: SpanKind) -> None:
    note(recorder.telemetry, operation=operation)
    assert recorder.spans()[0].kind is kind


def test_messaging_spans_follow_the_conventions(recorder: Recorder) -> None:
    note(recorder.telemetry, attributes={names.DESTINATION: "order-to-invoice.decision", names.OFFSET: 7})
    assert dict(recorder.spans()[0].attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "order-to-invoice.decision",
        "messaging.kafka.offset": 7,
        "handrail.stage": "order-to-invoice.decision",
    }


def test_only_allowed_attributes_are_kept_and_long_texts_are_cut(recorder: Recorder) -> None:
    given = {"customer_name": "Ada", "messaging.kafka.message.key": "o-1", names.CONTRACT: "x" * 1_000}
    note(recorder.telemetry, operation="call", attributes=given)
    assert dict(recorder.spans()[0].attributes or {}) == {
        names.STAGE: "order-to-invoice.decision",
        names.CONTRACT: "x" * 256,
    }


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        ("transient", "transient"),
        ("httpx.ConnectTimeout", "httpx.ConnectTimeout"),
        ("503", "503"),
        ("4711", "_OTHER"),
        ("no such customer: Ada", "_OTHER"),
    ],
)
def test_an_error_is_a_class_and_never_a_message(recorder: Recorder, error: str, kept: str) -> None:
    note(recorder.telemetry, error=error)
    (span,) = recorder.spans()
    assert not span.status.is_ok
    assert span.status.description is None
    assert (span.attributes or {})[names.ERROR_TYPE] == kept


def test_a_clock_that_went_back_gives_a_span_of_no_length(recorder: Recorder) -> None:
    recorder.telemetry.record(stage="s", operation="process", parent=None, start_ns=5, end_ns=3)
    assert (recorder.spans()[0].start_time, recorder.spans()[0].end_time) == (5, 5)


def test_spans_reach_a_collector_with_their_edges() -> None:
    with Collector() as collector:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint + "/"}
        ingest, transform = Telemetry.from_env("ingest", env), Telemetry.from_env("transform", env)
        first = ingest.child(None, RUN)
        second = transform.child(first, RUN)
        note(ingest, parent=None, context=first, stage="order-to-invoice.ingest.kafka")
        note(transform, parent=first, context=second, stage="order-to-invoice.transform", error="poison")
        note(transform, parent=second, stage="order-to-invoice.transform", operation="call")
        ingest.shutdown()
        transform.shutdown()
        spans = collector.spans()
    assert edges(spans) == {("ingest.process", "transform.process"), ("transform.process", "transform.call")}
    assert {(span.operation, span.failed) for span in spans} == {
        ("ingest.process", False),
        ("transform.process", True),
        ("transform.call", False),
    }
    assert {span.trace for span in spans} == {f"{trace_of(RUN):032x}"}


def test_a_collector_tells_when_the_edges_have_come() -> None:
    with Collector() as collector:
        telemetry = Telemetry.from_env("ingest", {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint})
        context = telemetry.child(None, RUN)
        note(telemetry, parent=None, context=context)
        note(telemetry, parent=context, operation="call")
        wanted = {("ingest.process", "ingest.call")}
        assert collector.wait_for(wanted) == wanted
        telemetry.shutdown()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_collector_that_is_gone_holds_up_the_end_for_two_seconds_at_most() -> None:
    with Collector() as collector:
        gone = collector.endpoint
    telemetry = Telemetry.from_env("ingest", {"OTEL_EXPORTER_OTLP_ENDPOINT": gone})
    note(telemetry)
    begun = time.monotonic()
    telemetry.shutdown()
    assert time.monotonic() - begun < 4.0
