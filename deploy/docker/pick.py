"""The part of requirements.lock that an image needs: `python pick.py <names> <lock>` prints it, with its hashes.

Why so: docs/adr/0012. Imports nothing but the standard library: it runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

_NAME = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==")


def canonical(name: str) -> str:
    """As registries compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(lock: str) -> Iterator[tuple[str, str]]:
    """Each locked package by its canonical name: its line and those of its hashes."""
    name, lines = "", list[str]()
    for line in lock.splitlines():
        found = _NAME.match(line)
        if found:
            if lines:
                yield name, "\n".join(lines)
            name, lines = canonical(found[1]), []
        if name and line.strip() and not line.startswith("#"):
            lines.append(line)
    if lines:
        yield name, "\n".join(lines)


def pick(names: str, lock: str) -> str:
    """The locked packages whose names stand in `names`, one a line. Raises KeyError for one that is not locked."""
    locked: dict[str, list[str]] = {}
    for name, entry in entries(lock):
        locked.setdefault(name, []).append(entry)  # twice, where platforms differ
    wanted = [canonical(name) for name in names.split()]
    return "".join(entry + "\n" for name in wanted for entry in locked[name])


if __name__ == "__main__":
    sys.stdout.write(pick(Path(sys.argv[1]).read_text(), Path(sys.argv[2]).read_text()))
