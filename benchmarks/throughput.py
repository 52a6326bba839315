"""Side by side on one broker: the stage with all its guarantees against a bare loop, as a ratio.

    .venv/bin/python benchmarks/throughput.py [--records 200000] [--rounds 3]

Each round runs both programs, the order alternating, over the same input (1 % duplicated ids). A read_committed consumer
times the first to the last output record; CPU is the program's own, by the operating system.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fastavro
import psutil
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from handrail.local.kafka import LocalKafka
from handrail.local.ports import free_port
from rich.console import Console
from rich.progress import track

HERE = Path(__file__).parent
SCHEMA_ID = 4711
PARTITIONS = 4
QUIET_S = 20.0


@dataclass(frozen=True)
class Figures:
    """Of one run: records that came out, records in per second, CPU microseconds per record in."""

    came_out: int
    per_second: float
    cpu_us: float


def main() -> None:
    """Run the rounds and print the medians and the ratio."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--records", type=int, default=200_000)
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_args()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        kafka = LocalKafka(Path(folder) / "kafka", free_port())
        kafka.start()
        try:
            distinct = _fill(kafka.bootstrap, given.records)
            found: dict[str, list[Figures]] = {"stage_app": [], "bare_loop": []}
            names = list(found)
            for number in track(range(given.rounds), "rounds", console=console):
                for name in names if number % 2 == 0 else reversed(names):
                    expected = distinct if name == "stage_app" else given.records
                    figures = _run(kafka.bootstrap, name, expected, given.records, Path(folder))
                    found[name].append(figures)
                    console.print(
                        f"{name}: {figures.per_second:,.0f} records/s, {figures.cpu_us:.1f} us CPU, out {figures.came_out:,}"
                    )
        finally:
            kafka.stop()
    medians = {name: statistics.median(each.per_second for each in runs) for name, runs in found.items()}
    cpu = {name: statistics.median(each.cpu_us for each in runs) for name, runs in found.items()}
    console.print_json(
        json.dumps(
            {
                "records_per_second": medians,
                "cpu_us_per_record": cpu,
                "stage_over_bare": round(medians["stage_app"] / medians["bare_loop"], 3),
            }
        )
    )


def _fill(bootstrap: str, records: int) -> int:
    """The input topic: 1 % of the records repeats an earlier id."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic("bench.in", PARTITIONS, 1)]).values():
        future.result()
    schema = fastavro.parse_schema(json.loads((HERE / "order.avsc").read_text()))
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50, "queue.buffering.max.messages": 500_000})
    dice = random.Random(1)
    ids: list[str] = []
    for number in range(records):
        again = bool(ids) and dice.random() < 0.01
        name = dice.choice(ids) if again else f"order-{number:09d}"
        if not again:
            ids.append(name)
        order = {"id": name, "customer": f"c{number % 10_000}", "amount": number, "currency": "EUR", "note": "x" * 60}
        out = io.BytesIO()
        out.write(b"\x00" + SCHEMA_ID.to_bytes(4, "big"))
        fastavro.schemaless_writer(out, schema, order)
        trace = f"00-{dice.getrandbits(128) or 1:032x}-{dice.getrandbits(64) or 1:016x}-00".encode()
        while True:
            try:
                producer.produce("bench.in", out.getvalue(), name.encode(), headers=[("traceparent", trace)])
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()
    return len(ids)


def _run(bootstrap: str, name: str, expected: int, records: int, folder: Path) -> Figures:
    topic, group = f"bench.out.{uuid.uuid4().hex[:8]}", f"bench.{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
        future.result()
    env = {
        **os.environ,
        "BOOTSTRAP": bootstrap,
        "TOPIC_IN": "bench.in",
        "TOPIC_OUT": topic,
        "GROUP": group,
        "SCHEMA_FILE": str(HERE / "order.avsc"),
        "SCHEMA_ID": str(SCHEMA_ID),
        "HANDRAIL_HOME": str(folder / group),
    }
    with subprocess.Popen([sys.executable, str(HERE / f"{name}.py")], env=env, stdout=subprocess.DEVNULL) as program:
        started, ended, count = 0.0, 0.0, 0
        for moment, some in _outputs(bootstrap, topic):
            started = started or moment
            ended, count = moment, count + some
            if count >= expected:
                break
        times = psutil.Process(program.pid).cpu_times()
        program.terminate()
    return Figures(count, records / (ended - started), (times.user + times.system) / records * 1e6)


def _outputs(bootstrap: str, topic: str) -> Iterator[tuple[float, int]]:
    """(time, number of records) until there was none for 20 s."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    last = time.monotonic()
    try:
        while time.monotonic() - last < QUIET_S:
            messages = consumer.consume(10_000, 0.1)
            some = sum(1 for message in messages if message.error() is None)
            if some:
                last = time.monotonic()
                yield last, some
    finally:
        consumer.close()


if __name__ == "__main__":
    main()
