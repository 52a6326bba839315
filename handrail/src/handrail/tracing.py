"""Telemetry that is switched on: the only importer of the OpenTelemetry SDK. All names are in handrail.telemetry."""

from __future__ import annotations

import random
import re
import threading
import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from handrail import telemetry as names
from handrail.telemetry import Attributes, Telemetry
from handrail.traceparent import SAMPLED, TRACEPARENT, trace_of

SHUTDOWN_S = 2.0
QUEUE = 16_384
"""Spans that wait for the collector; what is more is dropped. A batch of a stage has 1,000 records."""
DELAY_MS = 1_000.0
_ERROR_TYPE = re.compile(r"[1-5][0-9]{2}|[A-Za-z_][A-Za-z0-9_.]{0,79}")
_OTHER = "_OTHER"
_UNSET = Status(StatusCode.UNSET)
_ERROR = Status(StatusCode.ERROR)


class Tracing(Telemetry):
    """Spans made from what `record` is told, handed to a processor. Threads may share it.

    A span is made when it has ended, as a `ReadableSpan`, not by a tracer: its id was given out beforehand by `child`,
    and a batch has no current span.
    """

    def __init__(self, service: str, processor: SpanProcessor, unsampled: SpanProcessor | None = None) -> None:
        """`unsampled` gets the spans that the sampler left out, with the attribute `SAMPLED` false.

        It has a queue of its own: when there are too many of them, none of the others is dropped for it.
        """
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": names.SERVICE_PREFIX + service}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(processor)
        self._processor = processor
        self._unsampled = unsampled
        self._scope = InstrumentationScope(names.SCOPE)
        self._random = random.Random()

    @classmethod
    def to_endpoint(cls, service: str, endpoint: str, *, unsampled: bool = False) -> Tracing:
        """Export to a collector over OTLP/HTTP, in batches, from a thread of its own.

        When the collector is slow or gone, spans are dropped; no message waits for it.
        """

        def batches() -> BatchSpanProcessor:
            exporter = OTLPSpanExporter(endpoint=endpoint)
            return BatchSpanProcessor(exporter, max_queue_size=QUEUE, schedule_delay_millis=DELAY_MS)

        return cls(service, batches(), batches() if unsampled else None)

    @property
    def on(self) -> bool:
        return True

    @property
    def provider(self) -> TracerProvider:
        return self._provider

    def child(self, parent: str | None, run: str | None = None, *, entry: bool = False, keep: bool = False) -> str:
        span = self._random.getrandbits(64) or 1
        match = TRACEPARENT.fullmatch(parent) if parent else None
        if match is None:
            trace = trace_of(run) if run else (self._random.getrandbits(128) or 1)
            flags = self._sampled(None, trace)
            digits = f"{trace:032x}"
        else:
            digits, flags = match[1], int(match[3], 16)
            if entry:
                flags = flags & ~SAMPLED | self._sampled(parent, int(digits, 16))
        return f"00-{digits}-{span:016x}-{flags | SAMPLED if keep else flags:02x}"

    def _sampled(self, parent: str | None, trace: int) -> int:
        """Whether a run that begins here is recorded: OTEL_TRACES_SAMPLER decides, by the trace id and the parent."""
        above = _context(parent, remote=True)
        context = set_span_in_context(NonRecordingSpan(above)) if above is not None else None
        decision = self._provider.sampler.should_sample(context, trace, "run").decision
        return SAMPLED if decision is Decision.RECORD_AND_SAMPLE else 0

    def record(
        self,
        *,
        stage: str,
        operation: str,
        parent: str | None,
        start_ns: int,
        end_ns: int,
        context: str | None = None,
        attributes: Attributes | None = None,
        error: str | None = None,
        link: str | None = None,
    ) -> None:
        given = context or self.child(parent)
        own = _context(given, remote=False)
        if own is None:
            return
        sampled = own.trace_flags.sampled or bool(error)
        processor = self._processor if sampled else self._unsampled
        if processor is None:
            return
        above, linked = _context(parent, remote=True), _context(link, remote=True)
        processor.on_end(
            ReadableSpan(
                name=f"{operation} {stage}",
                context=_flagged(own),
                parent=above if above is not None and above.trace_id == own.trace_id else None,
                resource=self._provider.resource,
                attributes=_attributes(stage, operation, attributes, error, sampled),
                links=[Link(linked)] if linked is not None else (),
                kind=_kind(operation),
                status=_ERROR if error else _UNSET,
                start_time=start_ns,
                end_time=max(start_ns, end_ns),
                instrumentation_scope=self._scope,
            )
        )

    def shutdown(self) -> None:
        # The processor's own bound is 30 s; a collector that is gone must not hold up the end of a service.
        ends = [self._provider.shutdown, *([self._unsampled.shutdown] if self._unsampled else [])]
        workers = [threading.Thread(target=end, name="telemetry-shutdown", daemon=True) for end in ends]
        deadline = time.monotonic() + SHUTDOWN_S
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))


def _context(traceparent: str | None, *, remote: bool) -> SpanContext | None:
    match = TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None:
        return None
    return SpanContext(int(match[1], 16), int(match[2], 16), remote, TraceFlags(int(match[3], 16)))


def _flagged(own: SpanContext) -> SpanContext:
    """With the sampled flag on: an exporter lets nothing else pass."""
    if own.trace_flags.sampled:
        return own
    return SpanContext(own.trace_id, own.span_id, own.is_remote, TraceFlags(own.trace_flags | SAMPLED))


def _kind(operation: str) -> SpanKind:
    if operation in names.CLIENT_OPERATIONS:
        return SpanKind.CLIENT
    kind = names.MESSAGING_TYPES.get(operation)
    return {"process": SpanKind.CONSUMER, "receive": SpanKind.CONSUMER, "send": SpanKind.PRODUCER}.get(
        kind or "", SpanKind.INTERNAL
    )


def _attributes(
    stage: str, operation: str, given: Attributes | None, error: str | None, sampled: bool
) -> dict[str, str | int | float | bool]:
    found: dict[str, str | int | float | bool] = {names.STAGE: stage}
    kind = names.MESSAGING_TYPES.get(operation)
    if kind is not None:
        found |= {names.MESSAGING_SYSTEM: "kafka", names.OPERATION: operation, names.OPERATION_TYPE: kind}
    for name, value in (given or {}).items():
        if name in names.ALLOWED:
            found[name] = value[: names.MAX_TEXT] if isinstance(value, str) else value
    if error:
        found[names.ERROR_TYPE] = error if _ERROR_TYPE.fullmatch(error) else _OTHER
    if not sampled:
        found[names.SAMPLED] = False
    return found
