"""What the Jaeger of `handrail up --jaeger` is told. deploy/jaeger/jaeger.yaml is the same for docker-compose.yml.

Spans take two ways to one store (docs/adr/0017). What was sampled, and what a failure brought with it, is stored as it comes.
What the sampler left out (`handrail.sampled` is false) waits: when a span of its trace fails meanwhile it is stored too.
"""

from __future__ import annotations

from typing import Any

from handrail.telemetry import SAMPLED

EARLY_S = 60
"""So long after the first span of a trace what was left out is kept back, in case that its run fails."""
KEPT_TRACES = 50_000
"""In memory; the oldest goes. As many are kept back."""
_STORE = "memory"
_LEFT_OUT = f'attributes["{SAMPLED}"] == false'
_CHOSEN = f'attributes["{SAMPLED}"] != false'
_WELL = "status.code != STATUS_CODE_ERROR"


def configuration(host: str, *, page: int, otlp: int, grpc: int, early_s: int = EARLY_S) -> dict[str, Any]:
    """Jaeger's own configuration: OTLP over HTTP in, memory, page and API out.

    Its API over gRPC can't be switched off; no other port is opened.
    """
    return {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query"],
            "pipelines": {
                "traces/chosen": _pipeline("filter/left_out"),
                "traces/early": _pipeline("filter/chosen_and_well", "tail_sampling", "filter/chosen"),
            },
            "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}},
        },
        "extensions": {
            "jaeger_storage": {"backends": {_STORE: {"memory": {"max_traces": KEPT_TRACES}}}},
            "jaeger_query": {
                "storage": {"traces": _STORE},
                "enable_tracing": False,  # of its own queries
                "http": {"endpoint": f"{host}:{page}"},
                "grpc": {"endpoint": f"{host}:{grpc}"},
            },
        },
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"{host}:{otlp}"}}}},
        "processors": {
            "filter/left_out": _without(_LEFT_OUT),
            "filter/chosen_and_well": _without(f"{_CHOSEN} and {_WELL}"),  # of the others a failure tells which traces
            "tail_sampling": {
                "decision_wait": f"{early_s}s",
                "num_traces": KEPT_TRACES,
                "decision_cache": {"non_sampled_cache_size": 1},  # any, and it forgets: what comes later waits anew
                "policies": [{"name": "failed", "type": "status_code", "status_code": {"status_codes": ["ERROR"]}}],
            },
            "filter/chosen": _without(_CHOSEN),  # the other way has stored it
        },
        "exporters": {"jaeger_storage_exporter": {"trace_storage": _STORE}},
    }


def _pipeline(*processors: str) -> dict[str, list[str]]:
    return {"receivers": ["otlp"], "processors": list(processors), "exporters": ["jaeger_storage_exporter"]}


def _without(condition: str) -> dict[str, Any]:
    return {"error_mode": "ignore", "traces": {"span": [condition]}}
