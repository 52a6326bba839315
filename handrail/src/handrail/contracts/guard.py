"""What a schema may not be, so that a small message can never become a large value or a deep stack.

An item of an array takes at least one byte of the message, and no schema is recursive: so a decoder that meets a false
count runs into the end of the message after at most as many items as there are bytes, at a depth known beforehand.
"""

from __future__ import annotations

from typing import Any

MAX_DEPTH = 32
_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})


def dangers(schema: dict[str, Any]) -> list[str]:
    """What makes this schema unsafe to decode with; empty when it is safe."""
    found: list[str] = []
    _least(schema, {}, (), found, 1)
    return found


def _least(node: Any, known: dict[str, int], inside: tuple[str, ...], found: list[str], depth: int) -> int:
    """The least number of bytes that a value of this type takes (1 stands for one or more)."""
    if depth > MAX_DEPTH:
        found.append(f"types are nested more than {MAX_DEPTH} deep: flatten them")
        return 1
    if isinstance(node, str):
        return _named(node, known, inside, found)
    if isinstance(node, list):
        for branch in node:
            _least(branch, known, inside, found, depth + 1)
        return 1
    kind = node["type"]
    if kind in ("record", "error"):
        return _record(node, known, inside, found, depth)
    if kind == "fixed":
        known[node["name"]] = min(int(node["size"]), 1)
        return known[node["name"]]
    if kind == "enum":
        known[node["name"]] = 1
        return 1
    if kind in ("array", "map"):
        part = "items" if kind == "array" else "values"
        if _least(node[part], known, inside, found, depth + 1) == 0:
            found.append(f"the {part} of an {kind} take no bytes: a count alone would make a value of any size")
        return 1
    return _least(kind, known, inside, found, depth + 1)


def _named(name: str, known: dict[str, int], inside: tuple[str, ...], found: list[str]) -> int:
    if name in _PRIMITIVES:
        return 0 if name == "null" else 1
    if name in inside:
        found.append(f"{name} contains itself: recursive types are not allowed, list the levels or keep a reference")
        return 1
    return known.get(name, 0)


def _record(node: dict[str, Any], known: dict[str, int], inside: tuple[str, ...], found: list[str], depth: int) -> int:
    name = node["name"]
    sizes = [_least(field["type"], known, (*inside, name), found, depth + 1) for field in node["fields"]]
    known[name] = max(sizes, default=0)
    return known[name]
