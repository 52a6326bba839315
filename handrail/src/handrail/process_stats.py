"""What a process says of its stages, once a second: the topic, the contract, and how vitals become it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from handrail.vitals import Vitals

TOPIC = "stats"
CONTRACT = "handrail/process-stats.v1"


@dataclass(frozen=True, slots=True)
class Process:
    """Who speaks. `instance` is another one after each start; `started_at` in ms since the epoch."""

    service: str
    instance: str
    started_at: int


def body(process: Process, vitals: Vitals, now: int) -> dict[str, Any]:
    """One stage at one moment, by the contract."""
    return {
        "service": process.service,
        "instance": process.instance,
        "started_at": process.started_at,
        "stage": vitals.stage,
        "phase": vitals.phase,
        "reasons": list(vitals.reasons()),
        "counters": {name: counted for name, counted in vitals.counters.items() if counted},
        "gauges": {
            "partitions": len(vitals.partitions),
            "held": len(vitals.held),
            "lag": sum(vitals.lag.values()),
            "waiting": vitals.waiting,
            "blocked": vitals.blocked,
            "oldest_ms": vitals.oldest,
            "open": vitals.open,
            "open_oldest_ms": vitals.open_oldest,
            "behind_ms": vitals.behind,
            "headroom_ms": vitals.headroom,
            "full": int(vitals.full),
        },
        "at": now,
    }
