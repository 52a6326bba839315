"""The twin of real Kafka, in memory: what tests of stages and flows import."""

from __future__ import annotations

from handrail.testing.memory_broker import MemoryBroker
from handrail.testing.memory_log import Fate, MemoryLog

__all__ = ["Fate", "MemoryBroker", "MemoryLog"]
