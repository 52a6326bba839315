"""What waits in one partition of a stage: delayed records and timers, by due time, in the order of their keys.

Kept in memory and rebuilt from the tables on assign and after any abort, so it may run ahead of a transaction.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator


class Waiting:
    """A heap of due times over rows that live in the tables."""

    def __init__(self) -> None:
        self._due: dict[int, int] = {}
        self._route: dict[int, str] = {}
        self._since: dict[int, int] = {}
        self._queues: dict[str, deque[int]] = {}
        self._heap: list[tuple[int, int]] = []
        self._timer_due: dict[bytes, int] = {}
        self._timer_since: dict[bytes, int] = {}
        self._timers: list[tuple[int, bytes]] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._due)

    def next_sequence(self) -> int:
        """A place behind everything that waits."""
        self._next += 1
        return self._next

    def blocked_keys(self) -> int:
        """Keys of which more than the head waits."""
        return sum(1 for queue in self._queues.values() if len(queue) > 1)

    def oldest(self) -> int | None:
        """Since when the longest waiting record has waited."""
        return min(self._since.values(), default=None)

    def add(self, sequence: int, route: str, due_at: int, since: int) -> None:
        """Put a record into its key's queue, where it waits `since` then; only the head of a key ever becomes due."""
        self._next = max(self._next, sequence)
        queue = self._queues.setdefault(route, deque())
        queue.append(sequence)
        self._due[sequence], self._route[sequence], self._since[sequence] = due_at, route, since
        if queue[0] == sequence:
            heapq.heappush(self._heap, (due_at, sequence))

    def again(self, sequence: int, due_at: int) -> None:
        """The head of a key waits for another attempt."""
        self._due[sequence] = due_at
        heapq.heappush(self._heap, (due_at, sequence))

    def remove(self, sequence: int) -> None:
        """The head of a key is through; the next of its key is due by its own time."""
        route = self._route.pop(sequence)
        del self._due[sequence], self._since[sequence]
        queue = self._queues[route]
        queue.remove(sequence)
        if not queue:
            del self._queues[route]
        else:
            heapq.heappush(self._heap, (self._due[queue[0]], queue[0]))

    def blocked(self, route: str) -> bool:
        """Whether an earlier record of this key waits."""
        return route in self._queues

    def timers(self) -> int:
        """What is under way: rows with a timer."""
        return len(self._timer_since)

    def oldest_timer(self) -> int | None:
        """Since when the row that has had a timer for longest has had one, as far as this process knows."""
        return min(self._timer_since.values(), default=None)

    def timer_since(self, otherwise: int, row: bytes) -> int:
        """Since when a row has had a timer."""
        return self._timer_since.get(row, otherwise)

    def set_timer(self, row: bytes, due_at: int | None, since: int | None = None) -> None:
        """Set, move or (None) cancel the timer that a state row stands for. Its age counts from the first `since`."""
        if due_at is None:
            self._timer_due.pop(row, None)
            self._timer_since.pop(row, None)
        else:
            self._timer_due[row] = due_at
            self._timer_since.setdefault(row, due_at if since is None else since)
            heapq.heappush(self._timers, (due_at, row))

    def next_due(self) -> int | None:
        """When the next record or timer is due."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        while self._timers and self._timer_due.get(self._timers[0][1]) != self._timers[0][0]:
            heapq.heappop(self._timers)
        heads = [heap[0][0] for heap in (self._heap, self._timers) if heap]
        return min(heads) if heads else None

    def due_records(self, now: int, limit: int) -> Iterator[int]:
        """Up to `limit` heads of keys that are due, the longest overdue first."""
        while self._heap and limit > 0 and self._heap[0][0] <= now:
            due_at, sequence = heapq.heappop(self._heap)
            if self._due.get(sequence) == due_at and self._queues[self._route[sequence]][0] == sequence:
                limit -= 1
                yield sequence

    def due_timers(self, now: int, limit: int) -> Iterator[tuple[bytes, int]]:
        """Up to `limit` (state row, due time) of timers that are due."""
        while self._timers and limit > 0 and self._timers[0][0] <= now:
            due_at, row = heapq.heappop(self._timers)
            if self._timer_due.get(row) == due_at:
                del self._timer_due[row]
                limit -= 1
                yield row, due_at
