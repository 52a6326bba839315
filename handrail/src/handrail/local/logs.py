"""The log files below `.handrail/logs`: one for each service and one of all, each rotated by size."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path

from handrail.errors import ConfigError

MAX_BYTES = 5 * 1024 * 1024
MAX_LINE = 64 * 1024
ALL = "all"


class RotatingFile:
    """Lines into `path`; at `max_bytes` it becomes `<path>.1`, replacing the one before.

    A full disk loses log lines, never the process that writes them.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._file: FileIO | None = None

    def write(self, line: str) -> None:
        data = line.encode("utf-8", errors="replace") + b"\n"
        try:
            if self._file is not None and self._file.tell() + len(data) > self._max_bytes:
                self.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
            if self._file is None:
                self._file = self._path.open("ab", buffering=0)
            self._file.write(data)
        except OSError:
            self.close()

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None


class LogFiles:
    """Writes each line to the service's file and, with its name, to the one of all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, RotatingFile] = {}

    def write(self, service: str, line: str) -> None:
        self._file(service).write(line)
        self._file(ALL).write(f"{service} | {line}")

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _file(self, name: str) -> RotatingFile:
        if name not in self._files:
            self._files[name] = RotatingFile(self._folder / f"{name}.log")
        return self._files[name]


class Lines:
    """Bytes as they come from a pipe, cut into lines; a line longer than 64 KiB is cut up."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            yield from self._cut(line)
        if len(self._rest) >= MAX_LINE:
            rest, self._rest = self._rest, b""
            yield from self._cut(rest)

    def end(self) -> Iterator[str]:
        """The last line, if it had no end."""
        rest, self._rest = self._rest, b""
        if rest:
            yield from self._cut(rest)

    @staticmethod
    def _cut(line: bytes) -> Iterator[str]:
        for start in range(0, max(len(line), 1), MAX_LINE):
            yield line[start : start + MAX_LINE].decode("utf-8", errors="replace").rstrip("\r")


def log_path(home: Path, service: str | None) -> Path:
    """Where the log of a service, of Kafka or of all is. Raises ConfigError if there is none yet."""
    path = home / "kafka" / "logs" / "kafka.log" if service == "kafka" else home / "logs" / f"{service or ALL}.log"
    if not path.exists():
        have = sorted(file.stem for file in (home / "logs").glob("*.log") if file.stem != ALL)
        raise ConfigError(
            f"no log at {path}: " + (f"there are {', '.join(have)}" if have else "start with handrail up")
        )
    return path


def last_lines(path: Path, count: int) -> list[str]:
    """The last `count` lines of a log, also out of the file that was rotated away."""
    lines: deque[str] = deque(maxlen=count)
    for file in (path.with_name(path.name + ".1"), path):
        if file.exists():
            with file.open(encoding="utf-8", errors="replace") as text:
                lines.extend(line.rstrip("\n") for line in text)
    return list(lines)


def follow(path: Path, ended: Callable[[], bool], pause_s: float = 0.2) -> Iterator[str]:
    """Every line written from now on, also after a rotation, until `ended()`."""
    lines = Lines()
    file = path.open("rb")
    file.seek(0, 2)
    try:
        while True:
            if data := file.read():
                yield from lines.feed(data)
                continue
            if path.exists() and not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                yield from lines.feed(file.read())
                file.close()
                file = path.open("rb")
                continue
            if ended():
                return
            time.sleep(pause_s)
    finally:
        file.close()
