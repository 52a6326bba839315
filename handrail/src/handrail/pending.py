"""The uncommitted rows of one batch over a partition's committed tables, and what a handler sees of them."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from handrail.errors import ContractBroken
from handrail.tables import MAX_ROW_KEY_BYTES, PartitionTables

DELAYED, DEAD = b"D", b"X"
REPLAY_POSITION = b"p/replay"
TIMERS = b"c/"

_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")

Decode = Callable[[bytes], Mapping[str, Any]]
Encode = Callable[[str, Mapping[str, Any]], bytes]


class Pending:
    """One partition's part of a batch. Reads fall through to the committed tables."""

    def __init__(self, tables: PartitionTables) -> None:
        tables.begin_batch()
        self._tables = tables
        self.state: dict[bytes, bytes | None] = {}
        self.delayed: dict[int, bytes | None] = {}
        self.marks: dict[bytes, None] = {}
        self.offset: int | None = None

    def touched(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.state or self.delayed or self.marks or self.offset is not None)

    def get(self, key: bytes) -> bytes | None:
        """A state row as this batch leaves it."""
        return self.state[key] if key in self.state else self._tables.get(key)

    def delayed_record(self, sequence: int) -> bytes | None:
        """A delayed record as this batch leaves it."""
        return self.delayed[sequence] if sequence in self.delayed else self._tables.delayed(sequence)

    def done(self, digest: bytes) -> bool:
        """Whether a message was handled before, in an earlier batch or in this one."""
        return digest in self.marks or self._tables.marked(digest)

    def pin(self, digest: bytes) -> bytes | None:
        """The DELAYED or DEAD mark of a message."""
        return self.get(b"m/" + digest)

    def set_pin(self, digest: bytes, pin: bytes | None) -> None:
        """Pin a mark until it is closed, or (None) close it."""
        self.state[b"m/" + digest] = pin

    def set_replay_position(self, offset: int) -> None:
        """Next offset of the replay topic: kept here, because offsets of unsubscribed topics expire."""
        self.state[REPLAY_POSITION] = _U64.pack(offset)


def dead(generation: int) -> bytes:
    """The pinned mark of a dead letter."""
    return DEAD + _U32.pack(generation)


def generation_of(pin: bytes | None) -> int:
    """The generation of a DEAD mark; 0 for any other."""
    return int(_U32.unpack(pin[1:])[0]) if pin and pin[:1] == DEAD else 0


def replay_position(raw: bytes | None) -> int:
    """The way back from Pending.set_replay_position; 0 where none is kept."""
    return int(_U64.unpack(raw)[0]) if raw else 0


def timer_row(name: str, key: str) -> bytes:
    """The state row of a timer."""
    return TIMERS + name.encode() + b"/" + key.encode()


def timer_of(row: bytes, value: bytes) -> tuple[str, str, int, bytes]:
    """Name, key, due time and payload of a timer's row."""
    name, _, key = row[len(TIMERS) :].partition(b"/")
    return name.decode(), key.decode(), int(_U64.unpack_from(value)[0]), value[_U64.size :]


class View:
    """A handler's own tables, timers and work. Nothing of it counts unless the handler returns."""

    def __init__(
        self, pending: Pending, contracts: Mapping[str, str], encode: Encode, decode: Decode, now: int
    ) -> None:
        """`contracts` maps each table of the stage to the contract of its rows."""
        self._pending = pending
        self._contracts = contracts
        self._encode = encode
        self._decode = decode
        self._rows: dict[bytes, bytes | None] = {}
        self.now = now
        self.timers: dict[bytes, int | None] = {}
        self.work: list[tuple[str, Any]] = []
        self.counts: Counter[str] = Counter()

    def get(self, table: str, key: str) -> Mapping[str, Any] | None:
        """A row, as it is after everything earlier in this batch."""
        raw = self._row(table, key)
        value = self._rows[raw] if raw in self._rows else self._pending.get(raw)
        return None if value is None else self._decode(value)

    def put(self, table: str, key: str, row: Mapping[str, Any] | None) -> None:
        """Write a row by the table's contract, or (None) delete it."""
        raw = self._row(table, key)
        self._rows[raw] = None if row is None else self._encode(self._contracts[table], row)

    def set_timer(self, name: str, key: str, due_at: int | None, payload: bytes = b"") -> None:
        """Be called with `Due(name, key, payload)` at `due_at` (ms), or (None) no more."""
        row = _storable(timer_row(name, key), key)
        self._rows[row] = None if due_at is None else _U64.pack(due_at) + payload
        self.timers[row] = due_at

    def start(self, key: str, job: Any) -> None:
        """Hand a job to the stage's worker once this batch has committed."""
        self.work.append((key, job))

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter of the stage, once this batch has committed."""
        self.counts[name] += by

    def keep(self) -> None:
        """Make the rows part of the batch."""
        self._pending.state.update(self._rows)

    def _row(self, table: str, key: str) -> bytes:
        if table not in self._contracts:
            raise KeyError(f"this stage has no table {table!r}")
        return _storable(b"t/" + table.encode() + b"/" + key.encode(), key)


def _storable(row: bytes, key: str) -> bytes:
    """Refused before the commit: after it, a row that the tables can't take would stop the stage for ever."""
    if len(row) > MAX_ROW_KEY_BYTES:
        raise ContractBroken(f"the key of a row has {len(key.encode())} bytes: too many for a table")
    return row
