"""A plain consumer: reads any topic of Handrail with the folder contracts/ alone, as an outsider would.

Needs confluent-kafka, fastavro and the JSON of contracts.lock; nothing of Handrail's library but the root of its errors.
"""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from handrail_demo.errors import DemoError

_MAGIC = b"\x00"
_HEAD = 5


@dataclass(frozen=True, slots=True)
class Record:
    """One committed record. `contract` and `value` are None for a tombstone."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    contract: str | None
    value: dict[str, Any] | None


class PlainContracts:
    """The schemas of a folder by name and by the id that contracts.lock gives them. Raises DemoError."""

    def __init__(self, folder: Path) -> None:
        try:
            locked = json.loads((folder / "contracts.lock").read_text(encoding="utf-8"))
            self._ids = {name: int(entry["id"]) for name, entry in locked.items()}
            self._schemas = {
                name: parse_schema(json.loads((folder / f"{name}.avsc").read_text(encoding="utf-8")))
                for name in self._ids
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DemoError(
                f"the contracts in {folder} can't be read: {error}; run `handrail contracts lock`"
            ) from error
        self._names = {schema_id: name for name, schema_id in self._ids.items()}

    def encode(self, name: str, value: Mapping[str, Any]) -> bytes:
        """The value in the Confluent wire format: 0, the schema id as 4 bytes big-endian, the Avro body."""
        out = io.BytesIO()
        out.write(_MAGIC + self._ids[name].to_bytes(4, "big"))
        schemaless_writer(out, self._schemas[name], value)
        return out.getvalue()

    def decode(self, data: bytes) -> tuple[str, dict[str, Any]]:
        """The contract's name and the value. Raises ValueError for anything that is not one whole message."""
        if len(data) < _HEAD or data[:1] != _MAGIC:
            raise ValueError("not in the Confluent wire format")
        schema_id = int.from_bytes(data[1:_HEAD], "big")
        name = self._names.get(schema_id)
        if name is None:
            raise ValueError(f"schema id {schema_id} is not in contracts.lock")
        body = io.BytesIO(data[_HEAD:])
        try:
            value = schemaless_reader(body, self._schemas[name], None)
        except Exception as error:  # fastavro raises whatever the broken bytes led it to
            raise ValueError(f"not an Avro {name}: {error!r}") from error
        if body.read(1):
            raise ValueError(f"bytes are left after the {name}")
        if not isinstance(value, dict):
            raise ValueError(f"{name} is no record")
        return name, value


def read_topic(bootstrap: str, topic: str, contracts: PlainContracts, *, within_s: float = 30.0) -> list[Record]:
    """Every committed record of a topic, from its beginning to where it ends now, in the order of each partition.

    The end is that of uncommitted reading: an open transaction hides newer committed records, so it is waited for. Raises
    DemoError when the topic is not there, Kafka does not answer, the end is not reached in time, or a record does not
    decode.
    """
    consumer = _consumer(bootstrap, "read_committed")
    try:
        ends = _ends(bootstrap, topic, within_s)
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in ends])
        return _read(consumer, topic, ends, contracts, within_s)
    except KafkaException as error:
        raise DemoError(f"{topic} can't be read at {bootstrap}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _consumer(bootstrap: str, isolation: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"plain-{uuid.uuid4()}",
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
        }
    )


def _ends(bootstrap: str, topic: str, within_s: float) -> dict[int, int]:
    """The high watermark of each partition: asked with read_committed, Kafka would give the last stable offset."""
    consumer = _consumer(bootstrap, "read_uncommitted")
    try:
        found = consumer.list_topics(topic, timeout=within_s).topics[topic]
        if found.error is not None or not found.partitions:
            raise DemoError(f"there is no topic {topic} at {bootstrap}")
        ends = {}
        for partition in found.partitions:
            marks = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=within_s)
            if marks is None:
                raise DemoError(f"Kafka at {bootstrap} did not say where {topic}/{partition} ends")
            ends[partition] = marks[1]
        return ends
    finally:
        consumer.close()


def _read(
    consumer: Consumer, topic: str, ends: Mapping[int, int], contracts: PlainContracts, within_s: float
) -> list[Record]:
    records: list[Record] = []
    behind = {partition for partition, end in ends.items() if end > 0}
    until = time.monotonic() + within_s
    while behind:
        message = consumer.poll(0.2)
        if message is None:
            if time.monotonic() > until:
                raise DemoError(
                    f"{topic} was not read to its end within {within_s:.0f} s, partitions {sorted(behind)} are behind: "
                    "a transaction is open; wait for its timeout and read again"
                )
            continue
        error = message.error()
        partition, offset = int(message.partition() or 0), int(message.offset() or 0)
        if error is None:
            records.append(_record(topic, partition, offset, message.key(), message.value(), contracts))
        elif error.code() != KafkaError._PARTITION_EOF:
            raise KafkaException(error)
        elif offset >= ends[partition]:
            behind.discard(partition)
    return records


def _record(
    topic: str, partition: int, offset: int, key: bytes | None, value: bytes | None, contracts: PlainContracts
) -> Record:
    if value is None:
        return Record(topic, partition, offset, key, None, None)
    try:
        name, decoded = contracts.decode(value)
    except ValueError as error:
        raise DemoError(f"{topic}/{partition}/{offset}: {error}") from error
    return Record(topic, partition, offset, key, name, decoded)
