"""contracts.lock: the id of every released contract, fixed for ever."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from handrail.contracts.model import Contract
from handrail.errors import ContractFileError

LOCK = "contracts.lock"
_COMMAND = "run `handrail contracts lock`"


@dataclass(frozen=True, slots=True)
class Locked:
    """What the lock holds of one contract; the fields are those of `Contract`."""

    id: int
    fingerprint: str
    rules: str


def read_lock(folder: Path) -> dict[str, Locked]:
    """The lock of a folder; empty when there is none. Raises ContractFileError when it can't be read."""
    file = folder / LOCK
    try:
        entries = json.loads(file.read_text("utf-8"))
        return {
            name: Locked(int(entry["id"]), str(entry["fingerprint"]), str(entry["rules"]))
            for name, entry in entries.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContractFileError(f"{file}: can't be read ({error}); restore it from version control") from None


def require_locked(folder: Path, contracts: Iterable[Contract]) -> None:
    """Raise ContractFileError unless every contract stands in the lock as it is, under an id of its own."""
    problems = differences(folder, list(contracts))
    if problems:
        raise ContractFileError("\n".join(problems))


def differences(folder: Path, contracts: list[Contract]) -> list[str]:
    """What differs between the files and the lock, in words, with what to do."""
    lock = read_lock(folder)
    problems = []
    for contract in contracts:
        place = f"{folder / contract.name}.avsc"
        locked = lock.get(contract.name)
        if locked is None:
            problems.append(f"{place}: is not in {LOCK}: {_COMMAND}")
        elif locked.fingerprint != contract.fingerprint:
            problems.append(f"{place}: {_changed(contract)}")
        elif locked != Locked(contract.id, contract.fingerprint, contract.rules):
            problems.append(f"{place}: its rules or defaults differ from {LOCK}: {_COMMAND}")
    names = {contract.name for contract in contracts}
    problems += [f"{folder / name}.avsc: is gone but stands in {LOCK}: {_GONE}" for name in lock if name not in names]
    return problems + collisions(contracts)


_GONE = "messages of it may still exist; restore it, or run `handrail contracts lock --force`"


def _changed(contract: Contract) -> str:
    following = f"{contract.subject.rpartition('/')[2]}.v{contract.version + 1}.avsc"
    return (
        "a released schema never changes, since messages of it exist: "
        f"restore it and write the change as {following} (or `handrail contracts lock --force` when nobody has used it)"
    )


def collisions(contracts: Iterable[Contract]) -> list[str]:
    """Contracts whose ids are the same by chance, in words."""
    seen: dict[int, str] = {}
    problems = []
    for contract in contracts:
        other = seen.setdefault(contract.id, contract.name)
        if other != contract.name:
            problems.append(f"{contract.name}: has the same id {contract.id} as {other}: rename one of its fields")
    return problems


def write_lock(folder: Path, contracts: list[Contract], *, force: bool = False) -> list[str]:
    """Write the lock and give what changed in it, in words. Nothing is written when it is the same already.

    Raises ContractFileError when a released schema changed or is gone (unless `force`), or when two ids collide.
    """
    problems = collisions(contracts)
    old = read_lock(folder)
    new = {each.name: Locked(each.id, each.fingerprint, each.rules) for each in contracts}
    if not force:
        for contract in contracts:
            if contract.name in old and old[contract.name].fingerprint != contract.fingerprint:
                problems.append(f"{folder / contract.name}.avsc: {_changed(contract)}")
        problems += [f"{folder / name}.avsc: is gone but stands in {LOCK}: {_GONE}" for name in old if name not in new]
    if problems:
        raise ContractFileError("\n".join(problems))
    changes = _changes(old, new)
    if changes or not (folder / LOCK).exists():
        (folder / LOCK).write_text(_text(new), "utf-8")
    return changes


def _changes(old: dict[str, Locked], new: dict[str, Locked]) -> list[str]:
    changes = [f"{name}: added with id {new[name].id}" for name in sorted(new.keys() - old.keys())]
    changes += [f"{name}: removed" for name in sorted(old.keys() - new.keys())]
    for name in sorted(old.keys() & new.keys()):
        if old[name].fingerprint != new[name].fingerprint:
            changes.append(f"{name}: schema changed, id {old[name].id} is now {new[name].id}")
        elif old[name] != new[name]:
            changes.append(f"{name}: rules or defaults changed")
    return changes


def _text(entries: dict[str, Locked]) -> str:
    """One line a contract, so that two branches that add contracts merge."""
    lines = [
        f"  {json.dumps(name)}: " + json.dumps({"id": entry.id, "fingerprint": entry.fingerprint, "rules": entry.rules})
        for name, entry in sorted(entries.items())
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"
