"""What was acknowledged, as JSON lines: the only source of what the accounting asks for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from handrail_demo.errors import DemoError


@dataclass(frozen=True, slots=True)
class Entry:
    """One record that Kafka acknowledged. `identity` and `kind` as in handrail_demo.workload.Publication."""

    identity: str | None
    kind: str
    topic: str
    partition: int
    offset: int

    @property
    def coordinates(self) -> str:
        """`<topic>/<partition>/<offset>`."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def name(self) -> str:
        """What is counted: the identity, or `@` and the coordinates where the record has none."""
        return f"@{self.coordinates}" if self.identity is None else self.identity


class Manifest:
    """Writes one line for each acknowledgement, flushed at once: what was acknowledged before a crash is in the file."""

    def __init__(self, path: Path) -> None:
        """Begin a new manifest. Raises DemoError when the file can't be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lines = path.open("w", encoding="utf-8", buffering=1)
        except OSError as error:
            raise DemoError(f"the manifest can't be written to {path}: {error}") from error

    def acknowledged(self, entry: Entry) -> None:
        """Add a line."""
        self._lines.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_manifest(path: Path) -> list[Entry]:
    """The lines of a manifest. Raises DemoError with the line that is wrong, or for coordinates that come twice."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DemoError(f"the manifest {path} can't be read: {error}") from error
    entries: list[Entry] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise DemoError(f"{path}:{number}: not a line of a manifest: {error}") from error
        if entry.coordinates in seen:
            raise DemoError(
                f"{path}:{number}: {entry.coordinates} was acknowledged before; two runs share one manifest"
            )
        seen.add(entry.coordinates)
        entries.append(entry)
    return entries


def distinct(entries: Iterable[Entry]) -> set[str]:
    """The names that must each be accounted for once."""
    return {entry.name for entry in entries}
