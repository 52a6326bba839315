"""Between bytes and values: Avro in the Confluent wire format, behind guards.

A message is the byte 0, the schema's id as four bytes, big-endian, and the Avro body.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_reader, schemaless_writer

from handrail.contracts.exact import compile_check
from handrail.contracts.locate import locate
from handrail.contracts.model import Contract
from handrail.errors import ContractBroken, Poison

MAX_BYTES = 1 << 20
"""The largest message that is decoded or encoded, in bytes: 1 MiB, as the broker's default has it."""
KEEPING_BYTES = MAX_BYTES + 256 * 1024
"""The same for records that keep another message whole, the largest included, beside what is told about it."""
KEEPING = frozenset({"handrail/dead-letter.v1", "handrail/delayed.v1"})
HEAD = 5


class Codec:
    """The codec of one contract, with its schema parsed once."""

    __slots__ = ("_check", "_head", "_parsed", "contract", "max_bytes")

    def __init__(self, contract: Contract, max_bytes: int = MAX_BYTES) -> None:
        self.contract = contract
        parsed: Any = parse_schema(contract.schema)
        self._parsed: dict[str, Any] = parsed
        self._head = b"\x00" + contract.id.to_bytes(4, "big")
        self._check = compile_check(parsed, parsed["__named_schemas"])
        self.max_bytes = max(max_bytes, KEEPING_BYTES) if contract.name in KEEPING else max_bytes

    def encode(self, value: Mapping[str, Any]) -> bytes:
        """The message. Raises ContractBroken naming the field that is missing, unknown or of another type."""
        out = BytesIO()
        out.write(self._head)
        try:
            wrong = None if self._check is None else self._check(value)
            if wrong is None:
                schemaless_writer(out, self._parsed, value, strict_allow_default=True, disable_tuple_notation=True)
        except Exception as error:
            field, text = locate(self.contract.schema, value) or (None, str(error))
            raise ContractBroken(f"{self.contract.name}: {text}", field=field) from error
        if wrong is not None:
            path, text = wrong
            raise ContractBroken(f"{self.contract.name}: {path} {text}", field=path)
        if out.tell() > self.max_bytes:
            raise ContractBroken(f"{self.contract.name}: {out.tell()} bytes, at most {self.max_bytes} are allowed")
        return out.getvalue()

    def decode(self, data: bytes) -> dict[str, Any]:
        """The value of a message whose head is known to name this contract. Raises Poison."""
        stream = BytesIO(data)
        stream.seek(HEAD)
        try:
            value: dict[str, Any] = schemaless_reader(stream, self._parsed, None)  # type: ignore[assignment]
        except Exception as error:
            # Whatever the bytes make the decoder do (EOFError, IndexError, UnicodeDecodeError, OverflowError,
            # MemoryError, ...) says the same: they are not a message of this schema.
            text = str(error) or "the message ends too early"
            raise Poison(f"does not decode as {self.contract.name}: {type(error).__name__}: {text[:200]}") from error
        if stream.tell() != len(data):
            left = len(data) - stream.tell()
            raise Poison(f"does not decode as {self.contract.name}: {left} bytes are left over at its end")
        return value


def schema_id_of(data: bytes) -> int:
    """The schema id in a message's head. Raises Poison when there is none."""
    if len(data) < HEAD or data[0] != 0:
        raise Poison(f"not in the Confluent wire format: begins with {data[:HEAD].hex(' ') or 'nothing'}")
    return int.from_bytes(data[1:HEAD], "big")
