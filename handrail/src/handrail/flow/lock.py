"""`flows.lock`: a released version of a flow never changes, because runs that started with it must end with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

from handrail.errors import FlowError, Problem

LOCK = "flows.lock"
_HEAD = "# Released versions of flows. Written by `handrail flow release NAME`; do not edit.\n"
_LINE = re.compile(r"([a-z][a-z0-9-]*)/v([1-9][0-9]*) blake2b:([0-9a-f]{64})")

Released = Mapping[tuple[str, int], str]


def folder_hash(folder: Path) -> str:
    """BLAKE2b-256 over the names and bytes of everything that decides how a version behaves.

    Left out: tests, runbooks and other Markdown (they may be mended at any time), caches and hidden files.
    """
    digest = blake2b(digest_size=32, person=b"handrail.flow")
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        skipped = "tests" in parts or any(part.startswith((".", "__pycache__")) for part in parts)
        if skipped or path.suffix in (".md", ".pyc") or not path.is_file():
            continue
        for raw in ("/".join(parts).encode(), path.read_bytes()):
            digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()


def read_lock(flows: Path, file: str, problems: list[Problem]) -> dict[tuple[str, int], str]:
    """The hash of each released version; a missing file is an empty lock."""
    path = flows / LOCK
    if not path.is_file():
        return {}
    released: dict[tuple[str, int], str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            problems.append(
                Problem(file, number, f"{line!r} is not a released version", "take it from version control again")
            )
            continue
        released[match[1], int(match[2])] = match[3]
    return released


def write_lock(flows: Path, released: Released) -> None:
    """Write the lock file anew, sorted."""
    lines = [f"{flow}/v{version} blake2b:{released[flow, version]}\n" for flow, version in sorted(released)]
    (flows / LOCK).write_text(_HEAD + "".join(lines), encoding="utf-8")


def release(flows: Path, flow: str, version: int) -> bool:
    """Note the version as released; False when it was already. Raises FlowError when it was with other files."""
    problems: list[Problem] = []
    file = f"{flows.name}/{LOCK}"
    released = read_lock(flows, file, problems)
    problems += broken(flows, {key: value for key, value in released.items() if key == (flow, version)}, file)
    if problems:
        raise FlowError(problems)
    if (flow, version) in released:
        return False
    write_lock(flows, {**released, (flow, version): folder_hash(flows / flow / f"v{version}")})
    return True


def broken(flows: Path, released: Released, file: str) -> list[Problem]:
    """Released versions whose files changed or are gone."""
    found = []
    for (flow, version), expected in sorted(released.items()):
        folder = flows / flow / f"v{version}"
        shown = f"{flows.name}/{flow}/v{version}"
        if not folder.is_dir():
            instead = "put it back; when no run uses it any more, take its line out of the lock"
            found.append(Problem(file, None, f"{flow} v{version} is released, but {shown} is gone", instead))
        elif folder_hash(folder) != expected:
            instead = f"undo the change and make it in v{version + 1}: runs of v{version} must end as they began"
            found.append(Problem(shown, None, f"{flow} v{version} is released and its files have changed", instead))
    return found
