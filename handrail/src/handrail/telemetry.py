"""Traces: every span name and attribute name in one place, and the W3C context that messages carry.

Spans follow OpenTelemetry's conventions for messaging. They are recorded after the work, with the times of its start and
end, so that a batch of a thousand records opens no context manager:

    context = telemetry.child(message.traceparent, run_id)     # what the outputs carry
    ...                                                        # handle, commit
    telemetry.record(stage=…, operation="process", parent=message.traceparent, context=context, start_ns=…, end_ns=…)

Whether a run is recorded is decided once, where it comes in, by OTEL_TRACES_SAMPLER; the decision travels in the sampled
flag. A failure turns the flag on: the span that failed and all that follows it are recorded in any case. What comes before
it is sent as well where a collector is there to keep it (HANDRAIL_TRACES_UNSAMPLED=send, docs/adr/0017).

Without OTEL_EXPORTER_OTLP_ENDPOINT nothing is recorded, and nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from handrail.errors import ConfigError
from handrail.traceparent import derived_traceparent, kept, valid_traceparent

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Attributes = Mapping[str, "str | int | float | bool"]

SERVICE_PREFIX = "handrail-"
SCOPE = "handrail"
MAX_TEXT = 256

MESSAGING_SYSTEM = "messaging.system"
OPERATION = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
PARTITION = "messaging.destination.partition.id"
OFFSET = "messaging.kafka.offset"
MESSAGE_ID = "messaging.message.id"
GROUP = "messaging.consumer.group.name"
STAGE = "handrail.stage"
FLOW = "handrail.flow"
FLOW_VERSION = "handrail.flow.version"
RUN = "handrail.run"
ATTEMPT = "handrail.attempt"
REPLAY = "handrail.replay"
CONTRACT = "handrail.contract"
SYSTEM = "handrail.system"
SYSTEM_OPERATION = "handrail.system.operation"
HTTP_METHOD = "http.request.method"
HTTP_STATUS = "http.response.status_code"
ERROR_TYPE = "error.type"
SAMPLED = "handrail.sampled"
"""False on a span that the sampler left out; a collector keeps it where its run fails. Absent on all others."""

UNSAMPLED = "HANDRAIL_TRACES_UNSAMPLED"
SEND, DROP = "send", "drop"

ALLOWED = frozenset(
    {
        DESTINATION,
        PARTITION,
        OFFSET,
        MESSAGE_ID,
        GROUP,
        FLOW,
        FLOW_VERSION,
        RUN,
        ATTEMPT,
        REPLAY,
        CONTRACT,
        SYSTEM,
        SYSTEM_OPERATION,
        HTTP_METHOD,
        HTTP_STATUS,
    }
)
"""What a span may carry. No keys, routes, bodies, messages of errors or headers: they may be personal data."""

MESSAGING_TYPES = {"process": "process", "receive": "receive", "publish": "send", "send": "send"}
"""Operations that are messaging, and their `messaging.operation.type`."""
CLIENT_OPERATIONS = frozenset({"call", "verify"})
"""Operations that ask an outside system."""


class Telemetry:
    """Telemetry that is switched off: it passes contexts on and records nothing."""

    @classmethod
    def from_env(cls, service: str, env: Mapping[str, str]) -> Telemetry:
        """Telemetry as OpenTelemetry's environment variables say.

        Spans are exported over OTLP/HTTP (protobuf) when OTEL_EXPORTER_OTLP_ENDPOINT or
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set and OTEL_SDK_DISABLED is not "true". `service` is the service's short
        name, such as "ingest". HANDRAIL_TRACES_UNSAMPLED says what becomes of spans that are not sampled: `drop`, the
        default, or `send`, marked by `SAMPLED`. Raises ConfigError for another word.
        """
        unsampled = env.get(UNSAMPLED, DROP)
        if unsampled not in (SEND, DROP):
            raise ConfigError(f"{UNSAMPLED}={unsampled!r}: write {SEND} or {DROP}")
        endpoint = env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
        if not endpoint and env.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
            endpoint = env["OTEL_EXPORTER_OTLP_ENDPOINT"].rstrip("/") + "/v1/traces"
        if not endpoint or env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return Telemetry()
        from handrail.tracing import Tracing  # here, so that nothing of OpenTelemetry is loaded while it is off

        return Tracing.to_endpoint(service, endpoint, unsampled=unsampled == SEND)

    @property
    def on(self) -> bool:
        """Whether spans are recorded: ask before gathering attributes."""
        return False

    @property
    def provider(self) -> TracerProvider | None:
        """For OpenTelemetry's own instrumentations at the HTTP edges; None when switched off."""
        return None

    def child(
        self,
        parent: str | None,
        run: str | None = None,
        *,
        entry: bool = False,  # noqa: ARG002 - only what records asks a sampler
        keep: bool = False,
    ) -> str:
        """The traceparent that the outputs of a message carry.

        Switched off it is the parent as it is, or one derived from the run's id when the parent is missing or malformed.
        Switched on it is the context of a new span: give it to `record` as `context`. `entry` says that the parent is the
        outside world's, so that the sampler has a say; with `keep` the trace is recorded from here on, as after a failure.
        """
        context = valid_traceparent(parent) or derived_traceparent(run or uuid.uuid4().hex)
        return (kept(context) or context) if keep else context

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
        """Record one span that has ended.

        `operation` is "process", "call", "verify", "publish", ...; the span's name is `<operation> <stage>`. Times are ns
        since the epoch. Of `attributes` only those in `ALLOWED` are kept, texts cut at 256 characters. `error` is a
        failure class or an exception's type, never its message; with it the span is recorded even where its trace is not.
        `link` is the context of what made this happen, where that is another trace: an operator's order.
        """

    def shutdown(self) -> None:
        """Send what is recorded, for at most two seconds."""
