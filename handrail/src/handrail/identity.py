"""Ids that repeat when a step is repeated, and the one partitioner. All pure."""

from __future__ import annotations

import uuid
from hashlib import blake2b

_LETTERS = uuid.UUID("6ba6d4f1-6a26-5f0f-9d1c-0d2b8f0e3a51")


def _uuid8(digest: bytes) -> str:
    """16 bytes as the text of a UUIDv8 (RFC 9562, section 5.8)."""
    raw = bytearray(digest)
    raw[6] = (raw[6] & 0x0F) | 0x80
    raw[8] = (raw[8] & 0x3F) | 0x80
    h = raw.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def _parts(*parts: str) -> bytes:
    """Length-prefixed, so that ("a", "bc") and ("ab", "c") differ."""
    return b"".join(len(raw).to_bytes(4, "big") + raw for raw in (part.encode() for part in parts))


def run_id(flow: str, dedupe: dict[str, str]) -> str:
    """The run's id: the same for every copy of the same business event."""
    flat = [part for name in sorted(dedupe) for part in (name, dedupe[name])]
    return _uuid8(blake2b(_parts(flow, *flat), digest_size=16, person=b"handrail.run").digest())


def output_id(input_id: str, stage: str, index: int) -> str:
    """The id of a stage's n-th output for one input: a repeated step repeats it."""
    text = f"{len(input_id)}:{input_id}/{index}/{stage}"
    return _uuid8(blake2b(text.encode(), digest_size=16, person=b"handrail.out").digest())


def coordinates(topic: str, partition: int, offset: int) -> str:
    """Names a record that has no id of its own."""
    return f"{topic}/{partition}/{offset}"


def letter_id(stage: str, event: str) -> str:
    """UUIDv5 of the stage and the event's id or coordinates: a second failure is the same letter."""
    return str(uuid.uuid5(_LETTERS, f"{stage}\n{event}"))


def mark(dedupe: str) -> bytes:
    """The 16 bytes that stand for a handled message in a stage's marks."""
    return blake2b(dedupe.encode(), digest_size=16, person=b"handrail.mark").digest()


def murmur2(data: bytes) -> int:
    """Murmur2 as Kafka's Java client has it (org.apache.kafka.common.utils.Utils.murmur2), unsigned."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    length = len(data)
    h = (0x9747B28C ^ length) & mask
    end = length & ~3
    for i in range(0, end, 4):
        k = int.from_bytes(data[i : i + 4], "little")
        k = (k * m) & mask
        k ^= k >> 24
        k = (k * m) & mask
        h = ((h * m) & mask) ^ k
    rest = data[end:]
    if rest:
        h ^= int.from_bytes(rest, "little")
        h = (h * m) & mask
    h ^= h >> 13
    h = (h * m) & mask
    h ^= h >> 15
    return h


def partition_for(route: str, partitions: int) -> int:
    """The partition of a route: murmur2 as Java's default partitioner has it, set explicitly by us everywhere."""
    return (murmur2(route.encode()) & 0x7FFFFFFF) % partitions
