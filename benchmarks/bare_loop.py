"""The peer: a bare confluent-kafka loop. Transactions with fencing, decode, double, encode; no dedupe, no state, no recovery.

Same environment as stage_app.py.
"""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path
from types import FrameType

import fastavro
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

BATCH = 1_000


def main() -> None:
    """Loop until SIGTERM."""
    env = os.environ
    schema = fastavro.parse_schema(json.loads(Path(env["SCHEMA_FILE"]).read_text()))
    head = b"\x00" + int(env["SCHEMA_ID"]).to_bytes(4, "big")
    consumer = Consumer(
        {
            "bootstrap.servers": env["BOOTSTRAP"],
            "group.id": env["GROUP"],
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": env["BOOTSTRAP"],
            "transactional.id": f"{env['GROUP']}-0",
            "linger.ms": 20,
            "retry.backoff.ms": 10,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 200_000,
        }
    )
    producer.init_transactions(30)
    consumer.subscribe([env["TOPIC_IN"]])
    stopped = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    while not stopped:
        messages = [each for each in consumer.consume(BATCH, 0.2) if each.error() is None]
        if not messages:
            continue
        producer.begin_transaction()
        offsets: dict[int, int] = {}
        for message in messages:
            value = message.value() or b""
            order = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)
            order["amount"] *= 2  # type: ignore[index, call-overload]
            out = io.BytesIO()
            out.write(head)
            fastavro.schemaless_writer(out, schema, order)
            producer.produce(env["TOPIC_OUT"], out.getvalue(), message.key(), headers=message.headers())
            offsets[int(message.partition() or 0)] = int(message.offset() or 0) + 1
        positions = [TopicPartition(env["TOPIC_IN"], partition, offset) for partition, offset in offsets.items()]
        try:
            producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata(), 10)
            producer.commit_transaction(10)
        except KafkaException as error:
            raise SystemExit(f"bare loop: {error}") from error
    consumer.close()


if __name__ == "__main__":
    main()
