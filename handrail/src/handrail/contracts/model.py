"""What a contract is: an Avro record with a word on each field."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Missing: TypeAlias = Literal["reject", "default", "review"]
AvroType: TypeAlias = Any
"""The JSON form of an Avro type: a name, a list (union) or an object."""

NAME = re.compile(r"(?P<domain>[a-z][a-z0-9-]*)/(?P<event>[a-z][a-z0-9-]*)\.v(?P<version>[1-9][0-9]*)")
_DOTTED = re.compile(r"([a-z][a-z0-9-]*)\.([a-z][a-z0-9-]*\.v[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a contract.

    `valid` is a CEL expression over `value`. `missing` says what happens to a message without the field: it is refused
    ("reject"), the default counts ("default"), or a person looks at it ("review": the flow's rules must say so). `pii`
    marks personal data, which never goes to logs or traces.
    """

    name: str
    type: AvroType = field(hash=False)
    doc: str
    critical: bool = False
    valid: str | None = None
    missing: Missing | None = None
    pii: bool = False


@dataclass(frozen=True, slots=True)
class Contract:
    """One version of one event. `name` is `<domain>/<event>.v<N>`, its path below `contracts/`.

    `id` stands in every message (Confluent wire format). `fingerprint` is the SHA-256 of the parsing canonical form
    (Avro specification, "Schema Fingerprints"), `rules` a hash of everything else that counts: defaults, critical,
    valid, missing, pii. Texts of `doc` count in neither.
    """

    name: str
    id: int
    schema: dict[str, Any] = field(hash=False, repr=False)
    fields: tuple[Field, ...] = field(repr=False)
    fingerprint: str = field(repr=False)
    rules: str = field(repr=False)

    @property
    def subject(self) -> str:
        """The name without its version: `orders/order-accepted`."""
        return self.name.rpartition(".v")[0]

    @property
    def version(self) -> int:
        return int(self.name.rpartition(".v")[2])

    @property
    def topic(self) -> str:
        """Where the world publishes it: `ingest.<domain>.<event>`."""
        return "ingest." + self.subject.replace("/", ".")


def normalised_name(text: str) -> str:
    """`orders.order-accepted.v1` as `orders/order-accepted.v1`; every other text is given back as it is."""
    match = _DOTTED.fullmatch(text)
    return f"{match[1]}/{match[2]}" if match else text
