"""Events from a file of JSON lines, encoded by a contract, with every bad line told by its number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from handrail.contracts.collection import Contracts
from handrail.contracts.jsonform import loads
from handrail.contracts.model import Contract
from handrail.errors import ConfigError, ContractBroken


@dataclass(frozen=True, slots=True)
class Line:
    """One good line: its number from 1, its key, its value in the wire format, and a digest of that value."""

    number: int
    key: str | None
    value: bytes

    @property
    def digest(self) -> str:
        """Tells two values apart, so that the same line of the same file always gives the same event id."""
        return blake2b(self.value, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class BadLine:
    """One line that is not JSON or breaks the contract."""

    file: Path
    number: int
    why: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {self.why}"


def key_field(contract: Contract, wanted: str | None) -> str:
    """The field that is the key: the one wanted, or the contract's first. Raises ConfigError when there is none such."""
    names = [field.name for field in contract.fields]
    if wanted is None:
        return names[0]
    if wanted not in names:
        raise ConfigError(f"--key {wanted}: {contract.name} has no such field; it has {', '.join(names)}")
    return wanted


def read_lines(contracts: Contracts, contract: Contract, file: Path, key: str) -> Iterator[Line | BadLine]:
    """Every line that is not blank, checked as ingest checks it. One line is in memory at a time."""
    with file.open("rb") as lines:
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            try:
                yield _read(contracts, contract, text, number, key)
            except ContractBroken as error:
                yield BadLine(file, number, str(error))
            except ValueError as error:
                yield BadLine(file, number, f"is not JSON: {error}")


def _read(contracts: Contracts, contract: Contract, text: bytes, number: int, key: str) -> Line:
    value = loads(text.decode())
    if not isinstance(value, dict):
        raise ContractBroken(f"{contract.name}: must be an object with fields")
    data = contracts.encode(contract.name, value)
    contracts.check(contract, value)
    found = value.get(key)
    return Line(number, None if found is None else str(found), data)
