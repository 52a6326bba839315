"""A schema's id and fingerprints: hashes, so that every repository and environment has the same without asking."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from fastavro.schema import to_parsing_canonical_form

_BITS = (1 << 30) - 1
_LOWEST = 1 << 24
_LIFT = 1 << 29
_TEXTS = ("doc",)


def fingerprint(schema: dict[str, Any]) -> str:
    """SHA-256 of the parsing canonical form, hex (Avro specification, "Schema Fingerprints")."""
    return sha256(to_parsing_canonical_form(schema).encode()).hexdigest()


def schema_id(fingerprint: str) -> int:
    """The lowest 30 bits of the fingerprint's first four bytes; when that is below 2**24, bit 29 is set.

    At least 2**24, because a schema registry counts from 1: ids of ours and ids of a registry stay apart. At most 30
    bits, because the id is a signed 32-bit integer in some clients.
    """
    number = int.from_bytes(bytes.fromhex(fingerprint[:8]), "big") & _BITS
    return number if number >= _LOWEST else number | _LIFT


def rules_hash(schema: dict[str, Any]) -> str:
    """The first 16 hex digits of SHA-256 over the whole schema without its texts: changes with any rule or default."""
    flat = json.dumps(_without_texts(schema), sort_keys=True, separators=(",", ":"))
    return sha256(flat.encode()).hexdigest()[:16]


def _without_texts(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_texts(value) for key, value in node.items() if key not in _TEXTS}
    if isinstance(node, list):
        return [_without_texts(item) for item in node]
    return node
