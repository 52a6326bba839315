"""The contracts of a folder, and the codec by name and by id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from handrail.contracts.codec import MAX_BYTES, Codec, schema_id_of
from handrail.contracts.lock import collisions, require_locked
from handrail.contracts.model import Contract
from handrail.contracts.reading import read_folder
from handrail.contracts.validity import Environments, Rules
from handrail.errors import ContractBroken, ContractFileError, Poison


class Contracts:
    """A set of contracts. Immutable after it was made, so threads may share it."""

    def __init__(self, contracts: Iterable[Contract], *, max_bytes: int = MAX_BYTES) -> None:
        """Raises ContractFileError when two ids collide or a `valid` rule does not compile."""
        self._max_bytes = max_bytes
        self._codecs: dict[str, Codec] = {}
        self._by_id: dict[int, Codec] = {}
        self._rules: dict[str, Rules] = {}
        environments = Environments()
        problems: list[str] = []
        for contract in sorted(contracts, key=lambda each: each.name):
            codec = Codec(contract, max_bytes)
            self._codecs[contract.name] = self._by_id[contract.id] = codec
            try:
                self._rules[contract.name] = Rules(contract, environments)
            except ValueError as error:
                problems.append(f"{contract.name}.avsc: {error}")
        problems += collisions(codec.contract for codec in self._codecs.values())
        if problems:
            raise ContractFileError("\n".join(problems))

    @classmethod
    def load(cls, folder: Path, *, max_bytes: int = MAX_BYTES) -> Contracts:
        """Read every .avsc below `folder` and its contracts.lock. Larger messages than `max_bytes` are not decoded.

        Records that keep a message whole (handrail.contracts.codec.KEEPING) may always be larger than the largest one.

        Raises ContractFileError when a file is wrong, or when the lock does not have a contract as it is.
        """
        contracts = read_folder(folder)
        require_locked(folder, contracts)
        return cls(contracts, max_bytes=max_bytes)

    def __getitem__(self, name: str) -> Contract:
        """The contract of that name. Raises ContractFileError with the nearest name when there is none."""
        return self._codec(name).contract

    def __contains__(self, name: object) -> bool:
        return name in self._codecs

    def names(self) -> list[str]:
        """Every name, sorted."""
        return list(self._codecs)

    def by_id(self, schema_id: int) -> Contract | None:
        """The contract with that schema id, if there is one."""
        codec = self._by_id.get(schema_id)
        return codec.contract if codec else None

    def encode(self, name: str, value: Mapping[str, Any]) -> bytes:
        """The message in the Confluent wire format. Raises ContractBroken, with the field where one is to blame."""
        return self._codec(name).encode(value)

    def decode(self, data: bytes, expected: str | None = None) -> tuple[Contract, dict[str, Any]]:
        """The contract and the value of a message.

        Raises Poison when the bytes are not one whole message of their schema, are too large or have no head, and
        ContractBroken when the schema id is unknown or the contract is not the one `expected`.
        """
        number = schema_id_of(data)
        codec = self._by_id.get(number)
        limit = codec.max_bytes if codec else self._max_bytes
        if len(data) > limit:
            raise Poison(f"{len(data)} bytes, at most {limit} are decoded")
        if codec is None:
            raise ContractBroken(f"schema id {number} is unknown; has its contract been added and locked here?")
        if expected is not None and codec.contract.name != expected:
            raise ContractBroken(f"{codec.contract.name} came where {expected} is expected")
        return codec.contract, codec.decode(data)

    def check(self, contract: Contract, value: Mapping[str, Any]) -> None:
        """Check the `missing` and `valid` rules, for where data enters. Raises ContractBroken with field and rule.

        Null, and in a critical field empty text too, is missing. A field that is null is not asked for its `valid`.
        """
        self._rules[contract.name].check(value)

    def _codec(self, name: str) -> Codec:
        try:
            return self._codecs[name]
        except KeyError:
            near = get_close_matches(name, self._codecs, 1, 0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ContractFileError(f"no contract {name}{hint}") from None
