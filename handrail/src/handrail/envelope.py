"""Headers: reading what the world sends, and what stages send each other. All pure.

At public topics the CloudEvents Kafka binary mode and W3C trace context; between stages, where every header costs, `ce_id`,
`ce_type`, `traceparent` and one binary header `hr` (run, flow, version, cause, route).
"""

from __future__ import annotations

import re
import struct
import uuid
from dataclasses import dataclass

from handrail.errors import ContractBroken
from handrail.message import Headers, Run

MAX_HEADERS = 32
MAX_HEADER_BYTES = 8 * 1024
MAX_ROUTE_BYTES = 400

_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_HEAD = struct.Struct(">BI16sHHH")
_REPLAY = struct.Struct(">BIIqH")
_NO_RUN = bytes(16)
_VERSION = 1
REPLAY, ORDER = "hr-replay", "hr-order"


@dataclass(slots=True)
class Meta:
    """What the headers of one record say. All that is missing is None."""

    id: str | None = None
    type: str | None = None
    traceparent: str | None = None
    run: Run | None = None
    cause: str | None = None
    route: str | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """A replayed record says which letter it is and where its original stood.

    `order` is the trace context of the operator's order; the record itself keeps the one that it came with.
    """

    letter: str
    generation: int
    topic: str
    partition: int
    offset: int
    order: str | None = None


def check_size(headers: Headers) -> None:
    """Raises ContractBroken when there are more than 32 headers, or 8 KiB of them."""
    if len(headers) > MAX_HEADERS:
        raise ContractBroken(f"{len(headers)} headers; at most {MAX_HEADERS} are taken")
    size = sum(len(name) + len(value or b"") for name, value in headers)
    if size > MAX_HEADER_BYTES:
        raise ContractBroken(f"{size} bytes of headers; at most {MAX_HEADER_BYTES} are taken")


def read_public(headers: Headers) -> Meta:
    """Allow-listed headers of an outside record: `traceparent` if well formed, and nothing that could steer us."""
    traceparent = None
    for name, value in headers:
        if name == "traceparent" and value is not None and _TRACEPARENT.fullmatch(value):
            traceparent = value.decode()
    return Meta(traceparent=traceparent)


def read_internal(headers: Headers) -> Meta:
    """Headers of a record that one of our stages wrote. Raises ContractBroken when they are torn."""
    found = dict(headers)
    raw_id, raw_type, traceparent, hr = (found.get(name) for name in ("ce_id", "ce_type", "traceparent", "hr"))
    try:
        run, cause, route = _read_hr(hr) if hr else (None, None, None)
        return Meta(
            id=raw_id.decode() if raw_id else None,
            type=raw_type.decode() if raw_type else None,
            traceparent=traceparent.decode() if traceparent and _TRACEPARENT.fullmatch(traceparent) else None,
            run=run,
            cause=cause,
            route=route,
        )
    except (UnicodeDecodeError, struct.error, ValueError) as error:
        raise ContractBroken(f"the internal headers are torn: {error}") from error


def _read_hr(hr: bytes) -> tuple[Run | None, str | None, str | None]:
    version, flow_version, run, flow_size, cause_size, route_size = _HEAD.unpack_from(hr)
    if version != _VERSION or len(hr) != _HEAD.size + flow_size + cause_size + route_size:
        raise ValueError("header hr has another version or length")
    rest = hr[_HEAD.size :]
    flow, cause, route = (
        rest[:flow_size].decode(),
        rest[flow_size : flow_size + cause_size].decode(),
        rest[flow_size + cause_size :].decode(),
    )
    return (
        (Run(str(uuid.UUID(bytes=run)), flow, flow_version) if run != _NO_RUN else None),
        cause or None,
        route or None,
    )


def write_internal(
    id: str,  # noqa: A002 - the name of the CloudEvents attribute
    type: str,  # noqa: A002
    traceparent: str | None,
    run: Run | None,
    cause: str,
    route: str,
) -> Headers:
    """The headers between stages."""
    flow, cause_bytes, route_bytes = (run.flow if run else "").encode(), cause.encode(), route.encode()
    hr = (
        _HEAD.pack(
            _VERSION,
            run.version if run else 0,
            bytes.fromhex(run.id.replace("-", "")) if run else _NO_RUN,
            len(flow),
            len(cause_bytes),
            len(route_bytes),
        )
        + flow
        + cause_bytes
        + route_bytes
    )
    trace: Headers = (("traceparent", traceparent.encode()),) if traceparent else ()
    return (("ce_id", id.encode()), ("ce_type", type.encode()), *trace, ("hr", hr))


def write_public(id: str, type: str, source: str, subject: str, time: str, traceparent: str | None) -> Headers:  # noqa: A002
    """CloudEvents 1.0, Kafka binary mode. `time` is RFC 3339."""
    headers: list[tuple[str, bytes | None]] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", id.encode()),
        ("ce_source", source.encode()),
        ("ce_type", type.encode()),
        ("ce_time", time.encode()),
        ("ce_subject", subject.encode()),
        ("ce_dataschema", f"contracts/{type}.avsc".encode()),
        ("content-type", b"application/avro"),
    ]
    if traceparent:
        headers.append(("traceparent", traceparent.encode()))
    return tuple(headers)


def write_replay(replay: Replay) -> tuple[str, bytes]:
    """The header that marks a replayed or delayed-after-replay record. Believed on a stage's private topics only."""
    topic = replay.topic.encode()
    raw = _REPLAY.pack(_VERSION, replay.generation, replay.partition, replay.offset, len(topic))
    return REPLAY, raw + topic + replay.letter.encode()


def replay_headers(replay: Replay) -> Headers:
    """All that a replayed record has beside its original headers."""
    order: Headers = ((ORDER, replay.order.encode()),) if replay.order else ()
    return (write_replay(replay), *order)


def read_replay(headers: Headers) -> Replay | None:
    """The replay header; None when there is none. Raises ContractBroken when it is torn or out of range."""
    raw = next((value for name, value in headers if name == REPLAY), None)
    if raw is None:
        return None
    try:
        version, generation, partition, offset, size = _REPLAY.unpack_from(raw)
        rest = raw[_REPLAY.size :]
        replay = Replay(rest[size:].decode(), generation, rest[:size].decode(), partition, offset, _order(headers))
    except (struct.error, UnicodeDecodeError) as error:
        raise ContractBroken(f"the header hr-replay is torn: {error}") from error
    if version != _VERSION or generation < 1 or offset < 0 or len(replay.letter) != 36:
        raise ContractBroken("the header hr-replay is out of range")
    return replay


def without_replay(headers: Headers) -> Headers:
    """The original headers of a replayed record."""
    return tuple(header for header in headers if header[0] not in (REPLAY, ORDER))


def _order(headers: Headers) -> str | None:
    raw = next((value for name, value in headers if name == ORDER), None)
    return raw.decode() if raw is not None and _TRACEPARENT.fullmatch(raw) else None
