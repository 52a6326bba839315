"""The twin's transaction coordinator: epochs that fence, open transactions, and commits that arrive late.

As the protocol that librdkafka speaks (transactions v1): the epoch changes with a new producer or a time-out, not with each
transaction, so a commit that is still under way can end a *later* transaction of the same producer (librdkafka#5423).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from handrail.errors import Fenced
from handrail.log import Outgoing, TopicPartition
from handrail.testing.group import Group, Membership
from handrail.testing.partition_log import MemoryTransaction, PartitionLog, State

TIMEOUT_MS = 15_000


@dataclass(slots=True, eq=False)
class EndTxn:
    """A request to commit, sent and not yet with the broker."""

    name: str
    epoch: int
    answer: str | None = None  # "committed", "nothing was open" or "fenced", once it has arrived


class Transactions:
    """All transactional producers of a broker, by their `transactional.id`."""

    def __init__(self, log: Callable[[TopicPartition], PartitionLog], offsets: dict[tuple[str, int], int]) -> None:
        self.in_flight: list[EndTxn] = []
        self.uptime = 0
        self._log = log
        self._offsets = offsets
        self._epochs: dict[str, int] = {}
        self._open: dict[str, MemoryTransaction] = {}

    def take_over(self, name: str) -> int:
        """A new producer of this name: the open transaction of the older one is aborted, and the older one fenced."""
        self._end(name, State.ABORTED)
        self._epochs[name] = self._epochs.get(name, -1) + 1
        return self._epochs[name]

    def current(self, name: str, epoch: int) -> MemoryTransaction:
        """The producer's open transaction; the first thing that it does begins one. Raises Fenced."""
        if self._epochs[name] != epoch:
            raise Fenced(f"{name}: a newer producer has our transactional id")
        if name not in self._open:
            self._open[name] = MemoryTransaction(name, epoch, self.uptime)
        return self._open[name]

    def pending(self, group: str, partition: int) -> bool:
        """Whether an open transaction will commit, or not, a position of this partition."""
        return any((group, partition) in transaction.offsets for transaction in self._open.values())

    def open(self) -> list[str]:
        """Names of producers whose transaction is open."""
        return list(self._open)

    def deliver(self, request: EndTxn) -> str:
        """A commit arrives: it ends what is open under its epoch now, whatever that is."""
        if request in self.in_flight:
            self.in_flight.remove(request)
        if request.answer is None:
            if self._epochs[request.name] != request.epoch:
                request.answer = "fenced"
            else:
                ended = self._end(request.name, State.COMMITTED)
                request.answer = "committed" if ended else "nothing was open"
        return request.answer

    def abort(self, name: str, epoch: int) -> None:
        """Raises Fenced."""
        self.current(name, epoch)
        self._end(name, State.ABORTED)

    def advance(self, ms: int, timeout_ms: int = TIMEOUT_MS) -> None:
        """Time passes: what was open for longer than the time-out is aborted, and its producer fenced."""
        self.uptime += ms
        for name, transaction in list(self._open.items()):
            if self.uptime - transaction.since > timeout_ms:
                self.take_over(name)

    def _end(self, name: str, state: State) -> bool:
        transaction = self._open.pop(name, None)
        if transaction is None:
            return False
        transaction.state = state
        for where in transaction.partitions:
            self._log(where).mark(transaction)
        if state is State.COMMITTED:
            self._offsets.update(transaction.offsets)
        return True


class MemoryProducer:
    """A transactional producer: the newest one of its name. Every call raises Fenced once there is a newer one."""

    def __init__(self, transactions: Transactions, append: Callable[..., int], name: str) -> None:
        self._transactions, self._append, self._name = transactions, append, name
        self._epoch = transactions.take_over(name)

    def produce(self, record: Outgoing) -> int:
        """Write one record of the open transaction; its offset."""
        transaction = self._transactions.current(self._name, self._epoch)
        offset = self._append(record, transaction)
        transaction.partitions[record.topic, record.partition] = None
        return offset

    def send_offsets(self, group: Group, membership: Membership, offsets: dict[int, int]) -> None:
        """Positions (partition -> next offset) that count once it commits. Raises Aborted for another generation."""
        transaction = self._transactions.current(self._name, self._epoch)
        group.check(membership)
        transaction.offsets.update({(group.name, partition): offset for partition, offset in offsets.items()})

    def ask_to_commit(self) -> EndTxn:
        """Send the commit; it counts when it is delivered (Transactions.deliver)."""
        request = EndTxn(self._name, self._epoch)
        self._transactions.in_flight.append(request)
        return request

    def commit(self) -> None:
        """Send the commit and wait for the answer."""
        if self._transactions.deliver(self.ask_to_commit()) == "fenced":
            raise Fenced(f"{self._name}: a newer producer has our transactional id")

    def abort(self) -> None:
        self._transactions.abort(self._name, self._epoch)
