"""Rules of a stage that were learnt the hard way, on the log in memory: each test names its rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from handrail.clock import Clock
from handrail.contracts import Contracts
from handrail.envelope import MAX_HEADER_BYTES, MAX_HEADERS
from handrail.errors import ConfigError, Failure
from handrail.log import Batch, Record
from handrail.message import Due, Finished, Message, Output, Run
from handrail.pending import View
from handrail.spec import Spec
from handrail.stage import Stage
from handrail.tables import Identity
from handrail.telemetry import Telemetry
from handrail.testing.driver import StageDriver
from handrail.testing.memory import MemoryBroker, MemoryLog

from handrail import envelope

CONTRACTS = Contracts.load(Path(__file__).parents[2] / "contracts")
ORDER = "orders/order-accepted.v1"
LIST = "handrail/effect-queue.v1"
NAME = "flow.transform"
RUN = Run("01234567-89ab-8def-8123-456789abcdef", "order-to-invoice", 1)
WINDOW_MS = 8_000
FIELDS = {
    "order_id": "7", "revision": 1, "customer_id": "c1", "customer_name": None, "segment": "unknown",
    "account_balance_minor": 0, "total_minor": 500, "currency": "EUR", "ordered_on": "2026-11-21",
}  # fmt: skip


def pass_on(given: Message | Due | Finished, view: View) -> Iterable[Output]:
    assert isinstance(given, Message)
    yield Output("out", given.type, given.key, value=given.value)


SPEC = Spec(
    name=NAME,
    inbox=NAME,
    accepts=frozenset({ORDER, LIST}),
    handler=pass_on,
    partitions=lambda _topic: 1,
    knows=lambda _flow, version: version == 1,
)


def order(**fields: Any) -> bytes:
    return CONTRACTS.encode(ORDER, FIELDS | fields)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def drive(broker: MemoryBroker, tmp_path: Path) -> Iterator[Callable[..., StageDriver]]:
    drivers: list[StageDriver] = []

    def start(spec: Spec = SPEC, home: str = "home") -> StageDriver:
        drivers.append(StageDriver(broker, spec, CONTRACTS, tmp_path / home))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.crash()


def stage_on(log: MemoryLog, folder: Path, clock: Clock) -> Stage:
    """A stage on a log that misbehaves."""
    return Stage(
        SPEC,
        log,
        CONTRACTS,
        folder=lambda partition: folder / str(partition),
        identity=lambda partition: Identity(NAME, partition, 1, {}),
        clock=clock,
        telemetry=Telemetry.from_env(NAME, {}),
        jitter=lambda: 0.0,
    )


# --- what a commit may say


class RunAhead(MemoryLog):
    """Gives one record at a time, though its position has moved over all of them (as on librdkafka#5213)."""

    def poll(self, limit: int, timeout: float) -> Batch:
        batch = super().poll(limit, timeout)
        batch.records = batch.records[:1]
        return batch


def test_what_is_committed_is_computed_from_the_batch_and_never_the_consumers_own_position(
    broker: MemoryBroker, drive: Any, tmp_path: Path
) -> None:
    whole = drive()
    for n in range(3):
        whole.send(ORDER, "7", order(), id=str(n))
    log = RunAhead(broker, NAME, NAME)
    stage = stage_on(log, tmp_path / "ahead", whole.clock)
    for _ in range(3):
        stage.step()
    stage.close()
    assert broker.offsets[NAME, 0] == 1
    again = drive(home="again")
    again.drain()
    assert broker.offsets[NAME, 0] == 3
    assert len(broker.records("out")) == 3


class Greedy(MemoryLog):
    """Gives records of a partition that is not its own."""

    def poll(self, limit: int, timeout: float) -> Batch:
        batch = super().poll(limit, timeout)
        if batch.records:
            batch.records += [replace(each, partition=each.partition + 1) for each in batch.records]
        return batch


def test_only_what_is_owned_is_handled_and_only_its_offsets_are_committed(
    broker: MemoryBroker, drive: Any, tmp_path: Path
) -> None:
    """The broker checks member and generation only: it would take the offset of a partition of somebody else."""
    whole = drive()
    whole.send(ORDER, "7", order(), id="a")
    log = Greedy(broker, NAME, NAME)
    stage = stage_on(log, tmp_path / "greedy", whole.clock)
    for _ in range(3):
        stage.step()
    stage.close()
    assert [each.offsets for each in log.transactions] == [{0: 1}]
    assert len(broker.records("out")) == 1


class Late(MemoryLog):
    """Its partition is revoked in the very poll that brings its records."""

    def poll(self, limit: int, timeout: float) -> Batch:
        batch = super().poll(limit, timeout)
        if batch.records:
            batch.revoked = (0,)
        return batch


def test_a_batch_whose_partition_was_revoked_is_dropped(broker: MemoryBroker, drive: Any, tmp_path: Path) -> None:
    whole = drive()
    whole.send(ORDER, "7", order(), id="a")
    log = Late(broker, NAME, NAME)
    stage = stage_on(log, tmp_path / "late", whole.clock)
    for _ in range(3):
        stage.step()
    stage.close()
    assert log.transactions == []
    assert broker.records("out") == []


def test_an_empty_batch_opens_no_transaction(drive: Any, broker: MemoryBroker) -> None:
    stage = drive()
    for _ in range(5):
        assert stage.stage.step() is False
    stage.send(ORDER, "7", order(), id="a")
    stage.drain()
    stage.drain()
    assert len(stage.log.transactions) == 1


def test_what_no_record_caused_is_sent_with_the_position_because_an_empty_list_fences_nobody(
    drive: Any, broker: MemoryBroker
) -> None:
    """A timer, and a retry: neither moves the position."""
    down = True

    def handler(given: Message | Due | Finished, view: View) -> Iterable[Output]:
        match given:
            case Message(key="timer"):
                view.set_timer("wake", given.key, view.now + 10, given.value)
            case Message() if down:
                raise Failure("transient", "down")
            case Message():
                yield Output("out", ORDER, given.key, value=given.value)
            case Due():
                yield Output("out", ORDER, given.key, value=given.payload)

    stage = drive(replace(SPEC, handler=handler))
    stage.send(ORDER, "timer", order(), id="a")
    stage.send(ORDER, "retry", order(), id="b")
    stage.drain()
    down = False
    stage.clock.advance(60_000)
    stage.drain()
    assert len(broker.records("out")) == 2
    assert len(stage.log.transactions) > 1
    assert all(each.offsets == {0: 2} for each in stage.log.transactions)


def test_the_local_tables_are_written_after_the_commit_and_never_before(drive: Any, broker: MemoryBroker) -> None:
    stage = drive()
    stage.drain()
    stage.send(ORDER, "7", order(), id="a")
    stage.log.fail_next = "aborted"
    stage.stage.step()
    assert broker.records("out") == []
    stage.crash()
    again = drive()
    again.drain()
    assert len(broker.records("out")) == 1, "a mark from before the commit would have dropped it"


# --- duplicates


def test_marks_are_dropped_by_the_brokers_time_and_not_by_the_wall_clock(drive: Any, broker: MemoryBroker) -> None:
    """A clock that jumps ahead must not make a process forget what it has done."""
    stage = drive(replace(SPEC, window_ms=WINDOW_MS))
    stage.send(ORDER, "7", order(), id="a")
    stage.drain()
    stage.clock.advance(365 * 24 * 3_600_000)
    stage.send(ORDER, "7", order(), id="b")
    stage.send(ORDER, "7", order(), id="a")
    stage.drain()
    assert len(broker.records("out")) == 2, "a year by the wall clock"
    broker.now += WINDOW_MS - 1
    stage.send(ORDER, "7", order(), id="c")
    stage.drain()
    stage.send(ORDER, "7", order(), id="a")
    stage.drain()
    assert len(broker.records("out")) == 3, "still within the window"
    broker.now += 2 * WINDOW_MS
    stage.send(ORDER, "7", order(), id="d")
    stage.drain()
    stage.send(ORDER, "7", order(), id="a")
    stage.drain()
    assert len(broker.records("out")) == 5, "the window is over, by the broker's time: memory is bounded"


def test_a_dead_letter_is_known_beyond_the_window_so_that_it_can_be_replayed_safely(
    drive: Any, broker: MemoryBroker
) -> None:
    broken = True

    def handler(message: Message, view: View) -> Iterable[Output]:
        if broken and message.body["revision"] == 1:
            raise Failure("business", "no")
        yield Output("out", ORDER, message.key, value=message.value)

    stage = drive(replace(SPEC, handler=handler, window_ms=WINDOW_MS))
    stage.send(ORDER, "7", order(), id="a")
    stage.drain()
    broker.now += 10 * WINDOW_MS
    stage.send(ORDER, "7", order(revision=2), id="b")
    stage.drain()
    broken = False
    stage.send(ORDER, "7", order(), id="a")
    stage.drain()
    assert len(broker.records("out")) == 1, "the original comes again, and is known"
    (letter,) = stage.letters()
    for _ in range(2):
        stage.replay(letter)
        stage.drain()
    assert len(broker.records("out")) == 2, "its replay passes once"


# --- flow versions


def test_an_unknown_flow_version_pauses_its_partition_alone_and_goes_on_once_the_process_knows_it(
    drive: Any, broker: MemoryBroker
) -> None:
    broker.create(NAME, 2)
    for private in ("state", "marks", "delayed", "replay"):
        broker.create(f"{NAME}.{private}", 2)
    stage = drive()
    sent: dict[int, list[int]] = {0: [], 1: []}
    for n in range(12):
        version = 2 if n == 4 else 1
        record = stage.send(ORDER, str(n % 3), order(revision=n + 1), id=str(n), run=replace(RUN, version=version))
        sent[record.partition].append(n + 1)
    held = next(partition for partition, numbers in sent.items() if 5 in numbers)
    assert len(sent[1 - held]) > 0
    stage.drain()
    done = revisions(broker.records("out"))
    assert done == sorted([*(n for n in sent[held] if n < 5), *sent[1 - held]]), "nothing behind it in its partition"
    assert stage.letters() == []
    stage.crash()
    newer = drive(replace(SPEC, knows=lambda _flow, version: version <= 2))
    newer.drain()
    assert revisions(broker.records("out")) == list(range(1, 13))
    in_order = [CONTRACTS.decode(record.value or b"")[1]["revision"] for record in broker.records("out")]
    assert [n for n in in_order if n in sent[held]] == sent[held]


def revisions(records: list[Record]) -> list[int]:
    return sorted(CONTRACTS.decode(record.value or b"")[1]["revision"] for record in records)


# --- bad input


def varint(number: int) -> bytes:
    """Avro's long."""
    number, out = (number << 1) ^ (number >> 63), bytearray()
    while number > 0x7F:
        out.append((number & 0x7F) | 0x80)
        number >>= 7
    return bytes([*out, number])


def listed(count: int, rest: bytes = b"") -> bytes:
    """A list that says how many items it has."""
    head = CONTRACTS.encode(LIST, {"route": "r", "effects": []})[:5]
    return head + varint(1) + b"r" + varint(count) + rest


BOMBS = {
    "twenty million items in a few bytes": (listed(20_000_000), "poison"),
    "a count beyond every memory": (listed(2**62), "poison"),
    "bytes left over": (order() + b"\0", "poison"),
    "cut off": (order()[:-1], "poison"),
    "a schema that nobody has": (b"\0\x7f\xff\xff\xff" + order()[5:], "contract"),
    "too large": (order() + bytes(3_000_000), "poison"),
    "text that is none": (listed(1, varint(2) + b"\xff\xfe" + varint(0)), "poison"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("public", [True, False])
def test_what_does_not_decode_is_one_dead_letter_at_its_place_and_its_neighbours_go_through(
    drive: Any, broker: MemoryBroker, bomb: str, public: bool
) -> None:
    value, error_class = BOMBS[bomb]
    stage = drive(replace(SPEC, public=public))
    stage.send(ORDER, "7", order(), id="before")
    stage.send(ORDER, "7", value, id="bomb")
    stage.send(ORDER, "7", order(), id="after")
    stage.drain()
    assert len(broker.records("out")) == 2
    (letter,) = stage.letters()
    assert (letter["failure_class"], letter["topic"], letter["offset"]) == (error_class, NAME, 1)
    assert letter["value"] == (value if len(value) < 1_000_000 else None)
    assert letter["attempts"] == 1


def test_a_recursive_schema_is_refused_before_anything_is_decoded_with_it(tmp_path: Path) -> None:
    """A message of 4.8 kB could crash the decoder by recursion."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "node.v1.avsc").write_text(
        '{"type": "record", "name": "Node", "namespace": "own.v1", "doc": "d", "fields": '
        '[{"name": "next", "type": ["null", "Node"], "default": null, "doc": "d"}]}'
    )
    with pytest.raises(ConfigError, match="contains itself"):
        Contracts.load(tmp_path)


@pytest.mark.parametrize("public", [True, False])
def test_headers_are_at_most_32_and_8_kib_and_what_has_more_is_a_dead_letter(
    drive: Any, broker: MemoryBroker, public: bool
) -> None:
    stage = drive(replace(SPEC, public=public))
    many = tuple((f"h{n:02}", b"") for n in range(MAX_HEADERS))
    large = (("h", bytes(MAX_HEADER_BYTES - 1)),)
    for headers in (many, large, (*many, ("one-more", b"")), (("h", bytes(MAX_HEADER_BYTES)),)):
        broker.publish(NAME, "7", order(), headers)
    stage.drain()
    assert len(broker.records("out")) == 2
    assert [letter["failure_class"] for letter in stage.letters()] == ["contract", "contract"]
    assert [letter["offset"] for letter in stage.letters()] == [2, 3]


def test_headers_that_are_not_ours_are_not_passed_on(drive: Any, broker: MemoryBroker) -> None:
    stage = drive()
    headers = envelope.write_internal("a", ORDER, None, RUN, "test", "7")
    broker.publish(NAME, "7", order(), (*headers, ("hr-retry", b"1"), ("authorization", b"secret")))
    stage.drain()
    (sent,) = broker.records("out")
    assert {name for name, _ in sent.headers} <= {"ce_id", "ce_type", "traceparent", "hr"}
