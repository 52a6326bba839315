"""Which record is in hand, kept through the end of the process: what kills it time after time must be put aside undecoded.

A segmentation fault, the out-of-memory killer or our own watchdog can't be caught. So the key of the record in hand stands
in a memory-mapped file, which outlives the process (not the machine), and whoever opens it next counts a crash.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from handrail.errors import StateError

LIMIT = 3
_SIZE = 1024
_LENGTH = 2


class Crashes:
    """The crash counter of one partition. Keys name a record: topic, partition, offset and replay."""

    def __init__(self, folder: Path) -> None:
        """Open, and count a crash for the record that was in hand. Raises StateError when the folder can't be written."""
        self._counts_file = folder / "counts.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._hand = _mapped(folder / "in-hand")
            self._counts = _read(self._counts_file)
            last = self._in_hand()
            if last:
                self._counts[last] = self._counts.get(last, 0) + 1
                self._save()
        except OSError as error:
            raise StateError(f"the state folder {folder} can't be used: {error}; make it writable") from error
        self.free()

    def hold(self, key: str) -> None:
        """From here on an end of the process is counted for this record."""
        raw = key.encode()[: _SIZE - _LENGTH]
        self._hand[: _LENGTH + len(raw)] = len(raw).to_bytes(_LENGTH, "big") + raw

    def free(self) -> None:
        """Nothing is in hand."""
        self._hand[:_LENGTH] = b"\0\0"

    @property
    def suspects(self) -> bool:
        """Whether a crash was counted for any record that is not behind us."""
        return bool(self._counts)

    def condemned(self, key: str) -> bool:
        """Whether the process has ended too often with this record in hand."""
        return bool(self._counts) and self._counts.get(key, 0) >= LIMIT

    def forget(self, keys: Iterable[str]) -> None:
        """These were committed, some perhaps twice in one batch. Raises StateError when the folder can't be written."""
        known = self._counts.keys() & set(keys)
        for key in known:
            del self._counts[key]
        if known:
            try:
                self._save()
            except OSError as error:
                raise StateError(f"{self._counts_file} can't be written: {error}; make it writable") from error

    def close(self) -> None:
        """The process goes on without this partition."""
        self.free()
        self._hand.close()

    def _in_hand(self) -> str:
        length = int.from_bytes(self._hand[:_LENGTH], "big")
        return self._hand[_LENGTH : _LENGTH + length].decode(errors="replace")

    def _save(self) -> None:
        """Whole or not at all: a crash may come in between."""
        new = self._counts_file.with_suffix(".new")
        new.write_text(json.dumps(self._counts))
        new.replace(self._counts_file)


def _mapped(file: Path) -> mmap.mmap:
    """A file of its full size: a hole in it, filled later on a full disk, would be a bus error."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if os.fstat(descriptor).st_size != _SIZE:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"\0" * _SIZE, 0)
        return mmap.mmap(descriptor, _SIZE)
    finally:
        os.close(descriptor)


def _read(file: Path) -> dict[str, int]:
    """The counts; a broken file only means that counting begins again."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        found: Any = json.loads(file.read_text())
        if isinstance(found, dict):
            return {str(key): int(count) for key, count in found.items() if isinstance(count, int)}
    return {}
