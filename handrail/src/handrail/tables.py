"""A stage's keyed tables, one LMDB environment per partition, each a cache of committed changelog records.

Nothing is written here before its transaction has committed, and every write carries the changelog positions that it stands
for: whatever is missing after a crash is read again from the changelogs. A file that can't be trusted is wiped.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import lmdb

from handrail.errors import StateError

FORMAT = 1
MAX_ROW_KEY_BYTES = 511  # of LMDB
_POSITIONS = b"positions"
_IDENTITY = b"identity"
_FIRST_MAP_SIZE = 1 << 28
_MAX_DATABASES = 64
_LONGEST_REST_S = 12 * 3_600  # compaction keeps tombstones for a day (delete.retention.ms): rows would come back


@dataclass(frozen=True, slots=True)
class Identity:
    """What a table file must belong to: else it is wiped. `topic_ids` maps each changelog to Kafka's id of it."""

    stage: str
    partition: int
    partitions: int
    topic_ids: Mapping[str, str]

    def encode(self) -> bytes:
        """Canonical bytes, to be compared."""
        return json.dumps(
            {
                "format": FORMAT,
                "stage": self.stage,
                "partition": self.partition,
                "partitions": self.partitions,
                "topics": dict(sorted(self.topic_ids.items())),
            }
        ).encode()


@dataclass(slots=True)
class Changes:
    """Committed rows of one partition, to be applied together with the positions that they stand for.

    `positions` maps a changelog topic to the next offset to read from it. `marks` pairs the broker's time of a record of
    the marks topic with the digests in it.
    """

    state: dict[bytes, bytes | None] = field(default_factory=dict)
    delayed: dict[int, bytes | None] = field(default_factory=dict)
    marks: list[tuple[int, list[bytes]]] = field(default_factory=list)
    positions: dict[str, int] = field(default_factory=dict)


class PartitionTables:
    """State rows, delayed records and dedupe marks of one partition."""

    def __init__(self, folder: Path, identity: Identity, *, window_ms: int, buckets: int = 8) -> None:
        """Open, or wipe and start empty where the file is not usable.

        Raises StateError when the folder can't be written.
        """
        self._folder = folder
        self._bucket_ms = max(1, window_ms // buckets)
        self._keep = buckets + 1
        self._identity = identity.encode() + b" %d" % self._bucket_ms  # buckets of another size would hide new marks
        self._buckets: dict[int, Any] = {}
        self._reader: Any = None
        try:
            self._env = self._open()
            self._state, self._delayed, self._meta = (
                self._env.open_db(name) for name in (b"state", b"delayed", b"meta")
            )
            self._load_buckets()
        except (OSError, lmdb.Error) as error:
            raise _state_error(folder, error) from error

    def _open(self) -> Any:
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._trusted():
            shutil.rmtree(self._folder)
            self._folder.mkdir()
        env = self._environment()
        (self._folder / "boot").write_text(_boot_id())
        return env

    def _environment(self) -> Any:
        env = lmdb.open(
            str(self._folder),
            map_size=_FIRST_MAP_SIZE,
            max_dbs=_MAX_DATABASES,
            sync=False,
            metasync=False,
            readahead=False,
            max_readers=16,
        )
        with env.begin(write=True) as transaction:
            meta = env.open_db(b"meta", txn=transaction)
            if transaction.get(_IDENTITY, db=meta) is None:  # else the file keeps the time of its last change
                transaction.put(_IDENTITY, self._identity, db=meta)
        return env

    def _trusted(self) -> bool:
        """Not after a crash of the machine (writes are not synced) nor a long rest, nor with another identity, nor a
        broken file."""
        file, boot = self._folder / "data.mdb", self._folder / "boot"
        if not file.exists():
            return True
        if not boot.exists() or boot.read_bytes() != _boot_id().encode():
            return False
        found = file.stat()
        if abs(time.time() - found.st_mtime) > _LONGEST_REST_S:
            return False
        try:
            with lmdb.open(str(self._folder), max_dbs=_MAX_DATABASES, readonly=True, lock=False) as env:
                if (env.info()["last_pgno"] + 1) * env.stat()["psize"] > found.st_size:
                    return False  # cut off: reading it would be a bus error
                meta = env.open_db(b"meta", create=False)
                with env.begin() as transaction:
                    return bool(transaction.get(_IDENTITY, db=meta) == self._identity)
        except lmdb.Error:
            return False

    def _load_buckets(self) -> None:
        with self._env.begin() as transaction:
            names = [bytes(name) for name, _ in transaction.cursor() if bytes(name).startswith(b"marks-")]
        for name in names:
            self._buckets[int(name[6:])] = self._env.open_db(name)
        self._buckets = dict(sorted(self._buckets.items(), reverse=True))

    def positions(self) -> dict[str, int]:
        """Changelog topic -> next offset to read."""
        with self._env.begin() as transaction:
            raw = transaction.get(_POSITIONS, db=self._meta)
        return dict(json.loads(raw)) if raw else {}

    def wipe(self) -> None:
        """Forget everything: the changelogs are read again from their beginning. Raises StateError."""
        self.end_batch()
        try:
            self._wipe()
        except (OSError, lmdb.Error) as error:
            raise _state_error(self._folder, error) from error

    def _wipe(self) -> None:
        with self._env.begin(write=True) as transaction:
            for database in (self._state, self._delayed):
                transaction.drop(database, delete=False)
            for database in self._buckets.values():
                transaction.drop(database, delete=True)
            transaction.delete(_POSITIONS, db=self._meta)
        self._buckets = {}

    def begin_batch(self) -> None:
        """Read all of a batch from one snapshot."""
        if self._reader is None:
            self._reader = self._env.begin()

    def end_batch(self) -> None:
        """Let the snapshot go."""
        if self._reader is not None:
            self._reader.abort()
            self._reader = None

    def get(self, key: bytes) -> bytes | None:
        """A state row. Only between begin_batch and end_batch. Raises StateError when the file is broken."""
        try:
            value = self._reader.get(key, db=self._state)
        except lmdb.Error as error:
            raise self._broken(error) from error
        return None if value is None else bytes(value)

    def delayed(self, sequence: int) -> bytes | None:
        """A delayed record. Only between begin_batch and end_batch. Raises StateError when the file is broken."""
        try:
            value = self._reader.get(sequence.to_bytes(8, "big"), db=self._delayed)
        except lmdb.Error as error:
            raise self._broken(error) from error
        return None if value is None else bytes(value)

    def marked(self, digest: bytes) -> bool:
        """Whether the digest has a DONE mark inside the window. Only between begin_batch and end_batch. Raises StateError
        when the file is broken."""
        get = self._reader.get
        try:
            return any(get(digest, db=bucket) is not None for bucket in self._buckets.values())
        except lmdb.Error as error:
            raise self._broken(error) from error

    def scan_delayed(self) -> Iterator[tuple[int, bytes]]:
        """All delayed records, by sequence."""
        for key, value in self._scan(self._delayed, b""):
            yield int.from_bytes(key, "big"), value

    def scan_state(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """State rows whose key begins with `prefix`."""
        yield from self._scan(self._state, prefix)

    def _scan(self, database: Any, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            with self._env.begin() as transaction:
                cursor = transaction.cursor(db=database)
                if not (cursor.set_range(prefix) if prefix else cursor.first()):
                    return
                for key, value in cursor:
                    if not bytes(key).startswith(prefix):
                        return
                    yield bytes(key), bytes(value)
        except lmdb.Error as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> StateError:
        """Without its boot file the next start wipes it."""
        (self._folder / "boot").unlink(missing_ok=True)
        return StateError(f"{self._folder} is broken: {error}; it is restored from Kafka at the next start")

    def apply(self, changes: Changes) -> None:
        """Write rows and positions in one LMDB transaction. Raises StateError when the disk is full."""
        self.end_batch()
        while True:
            try:
                return self._apply(changes)
            except lmdb.MapFullError:
                self._env.set_mapsize(self._env.info()["map_size"] * 2)
            except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError) as error:
                raise self._broken(error) from error
            except (OSError, lmdb.Error) as error:
                raise _state_error(self._folder, error) from error

    def _apply(self, changes: Changes) -> None:
        marks = [(broker_time // self._bucket_ms, digests) for broker_time, digests in changes.marks]
        oldest = max([*(number for number, _ in marks), *self._buckets], default=0) - self._keep + 1
        self._drop_before(oldest)  # first: one chunk of a restore may span more than the window
        buckets = [(self._bucket(number), digests) for number, digests in marks if number >= oldest]
        with self._env.begin(write=True) as transaction:
            for key, value in changes.state.items():
                _write(transaction, self._state, key, value)
            for sequence, record in changes.delayed.items():
                _write(transaction, self._delayed, sequence.to_bytes(8, "big"), record)
            for bucket, digests in buckets:
                transaction.cursor(db=bucket).putmulti([(digest, b"") for digest in sorted(digests)])
            raw = transaction.get(_POSITIONS, db=self._meta)
            positions = (json.loads(raw) if raw else {}) | changes.positions
            transaction.put(_POSITIONS, json.dumps(positions).encode(), db=self._meta)

    def _bucket(self, number: int) -> Any:
        if number not in self._buckets:
            self._buckets[number] = self._env.open_db(b"marks-%d" % number)
            self._buckets = dict(sorted(self._buckets.items(), reverse=True))
        return self._buckets[number]

    def _drop_before(self, oldest: int) -> None:
        """Whole buckets go, never single marks."""
        for old in [each for each in self._buckets if each < oldest]:
            with self._env.begin(write=True) as transaction:
                transaction.drop(self._buckets.pop(old), delete=True)

    def close(self) -> None:
        """Sync and close."""
        self.end_batch()
        self._env.sync(True)
        self._env.close()


class StateFolder:
    """The state folder of one stage and ordinal, held by a lock: two processes can't share it."""

    def __init__(self, home: Path, stage: str, ordinal: int) -> None:
        """Raises StateError when the folder can't be written or another process holds it."""
        self.path = home / "state" / stage / str(ordinal)
        self._lock: IO[str] | None = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / "lock").open("a+")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise StateError(
                f"the state folder {self.path} is held by another process with ordinal {ordinal}: "
                "stop it, or start this one with another HANDRAIL_ORDINAL"
            ) from error
        except OSError as error:
            raise _state_error(self.path, error) from error

    def partition(self, number: int) -> Path:
        """Folder of one partition's tables."""
        return self.path / f"{number:05d}"

    def close(self) -> None:
        """Let the lock go."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _write(transaction: Any, database: Any, key: bytes, value: bytes | None) -> None:
    if value is None:
        transaction.delete(key, db=database)
    else:
        transaction.put(key, value, db=database)


def _boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else "unknown"


def _state_error(folder: Path, error: Exception) -> StateError:
    if getattr(error, "errno", None) in (errno.EACCES, errno.EROFS, errno.EPERM) or not os.access(
        folder if folder.exists() else folder.parent, os.W_OK
    ):
        hint = "it can't be written: mend its permissions, or set HANDRAIL_HOME to a folder that can"
    elif any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)):
        hint = "the disk is full: free some room; nothing was lost, the process goes on from its last commit"
    else:
        hint = "if it is broken, delete it while the service is stopped: it is restored from Kafka"
    return StateError(f"the state folder {folder} can't be used: {error}; {hint}")
