"""The `Log` on real Kafka: one consumer fenced by group generation, one transactional producer, made anew after trouble."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

import structlog
from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from handrail.errors import Aborted, ConfigError, Fenced, Moved, Refused, Unreachable, Unrestored
from handrail.kafka import settings
from handrail.log import Batch, Fault, Outgoing, Record, Transaction, Written, no_fault
from handrail.log import TopicPartition as Where

_FENCED = frozenset(
    {
        KafkaError._FENCED,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.PRODUCER_FENCED,
    }
)
_NEVER_TAKEN = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.INVALID_MSG_SIZE})
_MOVING = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError._NOENT,  # no leader found
    }
)
_METADATA_PREFIX = b"CGMDv2:"
_CALL_S = 10.0
_COMMIT_S = 25.0
_INIT_S = 30.0
_WITHOUT_POLL_S = 2.0
_NO_ROOM_S = 0.01
_AGAIN_S = 0.1
_SAY_AGAIN_S = 10.0


class KafkaLog:
    """One stage's clients. Made, used and closed by one thread."""

    def __init__(
        self,
        bootstrap: str,
        stage: str,
        ordinal: int,
        inbox: str,
        fault: Fault = no_fault,
        restore_deadline_s: float = settings.RESTORE_DEADLINE_S,
    ) -> None:
        """Join the group and take over the transactional id. Raises Unreachable, Fenced, or ConfigError (no such topic)."""
        self._bootstrap, self._stage, self._ordinal = bootstrap, stage, ordinal
        self._inbox, self._replay = inbox, f"{stage}.replay"
        self._fault = fault
        self._restore_deadline_s = restore_deadline_s
        self._logger = structlog.get_logger().bind(stage=stage)
        self._assigned: list[int] = []
        self._revoked: list[int] = []
        self._held: set[int] = set()
        self._paused = False
        self._polled = 0.0
        self._fatal: KafkaError | None = None
        self._said: dict[int, float] = {}
        self._lost_connection = False
        self._admin = self._asker()
        self._producer: Producer | None = None
        self.renew()
        self._consumer = Consumer(settings.stage_consumer(bootstrap, stage, ordinal) | {"error_cb": self._on_error})
        self._consumer.subscribe([inbox], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke)

    def _asker(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self._bootstrap, "log_level": 3})

    # --- polling

    def poll(self, limit: int, timeout: float) -> Batch:
        if limit <= 0 and time.monotonic() - self._polled < _WITHOUT_POLL_S:
            time.sleep(min(timeout, _NO_ROOM_S))
            return Batch([], (), (), self._consumer.consumer_group_metadata())
        self._polled = time.monotonic()
        self._pause_all(limit <= 0)
        first = self._consumer.poll(timeout)
        messages = [] if first is None else [first]
        if first is not None and limit > 1:
            messages += self._consumer.consume(limit - 1, 0)
        records = [_record(message) for message in messages if self._usable(message)]
        revoked, assigned = tuple(self._revoked), tuple(self._assigned)
        self._revoked, self._assigned = [], []
        if revoked or assigned:
            records = []  # of the assignment before: they come again after the restore, to whoever owns them then
        if self._fatal is not None:
            raise Fenced(f"{self._stage}: {self._fatal.str()}")
        return Batch(records, assigned, revoked, self._consumer.consumer_group_metadata())

    def _pause_all(self, pause: bool) -> None:
        """Without room for long, poll for the group's sake. A pause throws away what was fetched, so short ones only wait."""
        if pause == self._paused:
            return
        self._paused = pause
        partitions = [each for each in self._consumer.assignment() if each.partition not in self._held]
        (self._consumer.pause if pause else self._consumer.resume)(partitions)

    def _usable(self, message: KafkaMessage) -> bool:
        error = message.error()
        if error is None:
            return True
        if _ends_it(error):
            raise Fenced(f"{self._stage}: {error.str()}")
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise ConfigError(
                f"{self._stage}: its position in {message.topic()}[{message.partition()}] is no longer there "
                f"({error.str()}); records may have expired unread. Look, then set a position with Kafka's tools"
            )
        self._logger.warning("poll", error=error.str())
        return False

    def _on_error(self, error: KafkaError) -> None:
        if _ends_it(error):
            self._fatal = error
        elif error.code() != KafkaError._ALL_BROKERS_DOWN and time.monotonic() >= self._said.get(error.code(), 0.0):
            self._said[error.code()] = time.monotonic() + _SAY_AGAIN_S  # a dead Kafka is told of 40 times a second
            self._logger.warning("client", error=error.str())

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Take the assignment without fetching anything: the stage restores first, then says where to go on."""
        consumer.assign([])
        self._assigned += [partition.partition for partition in partitions]

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._fault("in-revoke")
        consumer.unassign()
        gone = [partition.partition for partition in partitions]
        self._revoked += gone
        self._assigned = [partition for partition in self._assigned if partition not in gone]

    # --- positions

    def bounds(self, partitions: list[Where]) -> dict[Where, tuple[int, int]]:
        deadline = time.monotonic() + _CALL_S
        while True:
            try:
                low = self._ends(OffsetSpec.earliest(), partitions)  # type: ignore[no-untyped-call]
                high = self._ends(OffsetSpec.latest(), partitions)  # type: ignore[no-untyped-call]
            except KafkaException as error:
                if error.args[0].code() not in _MOVING or time.monotonic() > deadline:
                    raise self._trouble(error, "asking for watermarks") from error
                self._admin = self._asker()  # the old one may hold the leader that it knows for true for ever
            else:
                if all(0 <= low[where] <= high[where] for where in partitions):
                    return {where: (low[where], high[where]) for where in partitions}
                # While a leader moves an answer may hold no offset: taken for one, a table would pass for restored.
                if time.monotonic() > deadline:
                    raise Aborted(
                        f"{self._stage}: Kafka does not say where {', '.join(sorted({t for t, _ in partitions}))} end"
                    )
                self._logger.warning(
                    "no watermarks yet",
                    told=[(w, low[w], high[w]) for w in partitions if low[w] < 0 or high[w] < low[w]],
                )
            time.sleep(_AGAIN_S)

    def _ends(self, spec: OffsetSpec, partitions: list[Where]) -> dict[Where, int]:
        wanted = dict.fromkeys([TopicPartition(topic, partition) for topic, partition in partitions], spec)
        futures = self._admin.list_offsets(
            wanted, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=_CALL_S
        )
        return {(tp.topic, tp.partition): future.result().offset for tp, future in futures.items()}

    def committed(self, partitions: list[int]) -> dict[int, int]:
        try:
            found = self._consumer.committed([TopicPartition(self._inbox, p) for p in partitions], timeout=_INIT_S)
        except KafkaException as error:
            raise self._trouble(error, "asking for committed positions") from error
        for each in found:
            if each.error is not None:
                raise self._trouble(KafkaException(each.error), "asking for committed positions")
            if each.offset < 0:
                raise ConfigError(
                    f"{self._stage} has no position in {each.topic}[{each.partition}]; "
                    "run `handrail topics provision`: without one nothing would be fenced"
                )
        return {each.partition: each.offset for each in found}

    def resume(self, positions: dict[int, tuple[int, int]]) -> None:
        replays = self.bounds([(self._replay, partition) for partition in positions])
        assignment = []
        for partition, (inbox, replay) in positions.items():
            low, high = replays[self._replay, partition]
            assignment.append(TopicPartition(self._inbox, partition, inbox))
            assignment.append(TopicPartition(self._replay, partition, min(max(replay, low), high)))
        self._held.clear()
        self._paused = False
        self._consumer.assign(assignment)
        self._consumer.resume(assignment)  # librdkafka keeps an application's pause across assignments

    def hold(self, partition: int) -> None:
        self._held.add(partition)
        self._consumer.pause([TopicPartition(self._inbox, partition), TopicPartition(self._replay, partition)])

    def joined(self) -> bool:
        return _generation(self._consumer.consumer_group_metadata()) >= 0

    def lag(self, places: Mapping[int, int]) -> dict[int, int]:
        lags = {}
        for each in self._consumer.assignment():
            if each.topic == self._inbox:
                _, high = self._consumer.get_watermark_offsets(each, cached=True)
                position = places.get(each.partition, self._consumer.position([each])[0].offset)
                if high >= 0 and position >= 0:
                    lags[each.partition] = max(0, high - position)
        return lags

    # --- restore

    def read(self, spans: dict[Where, tuple[int, int]]) -> Iterator[list[Record]]:
        if not spans:
            return
        left = {where: end for where, (_, end) in spans.items()}
        deadline = time.monotonic() + self._restore_deadline_s
        consumer = Consumer(settings.reader(self._bootstrap, f"{self._stage}-{self._ordinal}-restore"))
        try:
            consumer.assign([TopicPartition(topic, p, start) for (topic, p), (start, _) in spans.items()])
            while left:
                if time.monotonic() > deadline:
                    raise Unrestored(
                        f"{self._stage}: restore did not reach {left} within {self._restore_deadline_s:.0f} s; "
                        "an open transaction of another process may hide what was committed"
                    )
                messages = consumer.consume(10_000, 0.2)
                yield self._restored(messages, spans, left)
        finally:
            consumer.close()

    def _restored(
        self, messages: list[KafkaMessage], spans: dict[Where, tuple[int, int]], left: dict[Where, int]
    ) -> list[Record]:
        """Records below the ends. A partition is through when a record or EOF says so: control records can't be seen."""
        records = []
        for message in messages:
            where = _where(message)
            error = message.error()
            if error is None:
                if cast(int, message.offset()) < spans[where][1]:
                    records.append(_record(message))
                reached = cast(int, message.offset()) + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                reached = cast(int, message.offset())
            else:
                raise self._trouble(KafkaException(error), "restoring")
            if where in left and reached >= left[where]:
                del left[where]
        return records

    # --- commit

    def commit(self, transaction: Transaction) -> Written:
        producer = self._healthy_producer()
        self._check_membership(transaction.membership)
        started = time.monotonic()
        ends: dict[Where, int] = {}
        times: dict[Where, int] = {}

        refused: list[str] = []

        def on_output(error: KafkaError | None, message: KafkaMessage) -> None:
            if error is not None and error.code() in _NEVER_TAKEN:
                refused.append(f"{message.topic()}: {error.str()}")

        def on_change(error: KafkaError | None, message: KafkaMessage) -> None:
            on_output(error, message)
            if error is None:
                where = _where(message)
                ends[where] = cast(int, message.offset()) + 1
                kind, at = message.timestamp()
                times[where] = at if kind == TIMESTAMP_LOG_APPEND_TIME else int(time.time() * 1000)

        try:
            producer.begin_transaction()
            self._fault("before-produce")
            for record in transaction.outputs:
                self._produce(producer, record, on_output)
            for record in transaction.changes:
                self._produce(producer, record, on_change)
            self._fault("after-produce")
            offsets = [TopicPartition(self._inbox, p, offset) for p, offset in transaction.offsets.items()]
            producer.send_offsets_to_transaction(offsets, transaction.membership, _left(started, _CALL_S))
            self._fault("after-offsets")
            self._check_membership(transaction.membership)
            if producer.flush(_left(started, settings.MESSAGE_TIMEOUT_S)):
                raise Aborted(f"{self._stage}: not everything could be produced in time")
            self._fault("before-commit")
            self._fault("in-commit")
            producer.commit_transaction(_left(started, settings.TRANSACTION_TIMEOUT_S))
        except KafkaException as error:
            trouble = self._trouble(error, "in a transaction")
            raise (Refused(refused[0]) if refused and isinstance(trouble, Aborted) else trouble) from error
        producer.poll(0)  # hear what happened to its connections
        took = time.monotonic() - started
        if self._lost_connection or took > settings.SLOW_COMMIT_S:
            # A copy of the commit may still be under way (librdkafka#5423): fence it before the next transaction.
            # After a lost connection send_offsets_to_transaction may block for ever (librdkafka#5456), as seen on the wire.
            self._logger.warning("slow commit", seconds=round(took, 3), lost_connection=self._lost_connection)
            self.renew()
        return Written(ends, times)

    def _healthy_producer(self) -> Producer:
        """The producer, made anew where it has lost a connection since its last transaction."""
        if self._producer is not None:
            self._producer.poll(0)
            if self._lost_connection:
                self._logger.warning("lost connection")
                self.renew()
        if self._producer is None:
            raise Aborted("there is no producer")
        return self._producer

    def _produce(self, producer: Producer, record: Outgoing, on_delivery: Any) -> None:
        while True:
            try:
                producer.produce(
                    record.topic,
                    value=record.value,
                    key=record.key,
                    partition=record.partition,
                    headers=list(record.headers) or None,
                    on_delivery=on_delivery,
                )
                return
            except BufferError:  # the local queue is full, nothing is wrong yet
                producer.poll(0.1)

    def _check_membership(self, membership: bytes) -> None:
        """A consumer that has not joined has generation -1 and would not be fenced by the broker."""
        generation = _generation(membership)
        now = _generation(self._consumer.consumer_group_metadata())
        if generation < 0 or generation != now:
            raise Moved(f"{self._stage}: the group moved on from generation {generation} to {now}")

    def renew(self) -> None:
        old, self._producer = self._producer, None
        if old is not None:
            with contextlib.suppress(KafkaException):
                old.purge()
            del old
        self._lost_connection = False
        given = settings.stage_producer(self._bootstrap, self._stage, self._ordinal)
        producer = Producer(given | {"error_cb": self._on_producer_error})
        try:
            producer.init_transactions(_INIT_S)
        except KafkaException as error:
            raise self._trouble(error, "taking over its transactional id", starting=True) from error
        self._producer = producer

    def _on_producer_error(self, error: KafkaError) -> None:
        if error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE):
            self._lost_connection = True

    def close(self) -> None:
        """Leave without a word to the group: a static member may be back soon."""
        # An assignment that waits to be told is taken now: within the consumer's own close that may never end
        # (librdkafka #4884).
        with contextlib.suppress(KafkaException, RuntimeError):
            self._consumer.poll(0)
        self._consumer.close()
        self._producer = None

    def _trouble(self, error: KafkaException, doing: str, *, starting: bool = False) -> Exception:
        """One of ours for each of librdkafka's: fenced, aborted, or not reachable at the start."""
        cause: KafkaError = error.args[0]
        text = f"{self._stage}: {doing}: {cause.str()}"
        if _ends_it(cause):
            return Fenced(text)
        if cause.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
            return ConfigError(f"{text}; run `handrail topics provision`")
        if starting:
            return Unreachable(f"{text} (Kafka at {self._bootstrap}); is it up? `handrail status`")
        return Aborted(text)


def _left(started: float, at_most: float) -> float:
    """Seconds that this call of a commit may take: all together end before the watchdog would."""
    return max(_CALL_S / 10, min(at_most, started + _COMMIT_S - time.monotonic()))


def _ends_it(error: KafkaError) -> bool:
    """Whether this client can't go on. A consumer that lost its place to another says so by _FATAL, which is not fatal()."""
    return error.code() in _FENCED or error.code() == KafkaError._FATAL or error.fatal()


def _where(message: KafkaMessage) -> Where:
    return cast(Where, (message.topic(), message.partition()))


def _record(message: KafkaMessage) -> Record:
    headers = cast("list[tuple[str, bytes | None]] | None", message.headers())
    topic, partition = _where(message)
    return Record(
        topic,
        partition,
        cast(int, message.offset()),
        message.timestamp()[1],
        message.key(),
        message.value(),
        tuple(headers or ()),
    )


def _generation(membership: bytes) -> int:
    """librdkafka's serialised group metadata: `CGMDv2:`, then the generation as little-endian int32."""
    if not membership.startswith(_METADATA_PREFIX):
        return -1
    return int.from_bytes(membership[len(_METADATA_PREFIX) : len(_METADATA_PREFIX) + 4], "little", signed=True)
